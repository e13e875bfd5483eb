"""The benchmark of steps, under a clock that only the methods move; what all benchmarks print and write."""

import json
import runpy
import sys

import pytest
import torch
from helpers.runs import SMALL, flags, save_teachers
from helpers.written import table_of

from dataset.clips import AudioVisualClips
from dataset.demo import Demo
from engine import train
from engine.parser import parse
from engine.train import train_epoch
from methods import METHODS
from methods.joint import Joint
from scripts import benchmark
from scripts.benchmarks import runs, step, timing
from scripts.benchmarks.counts import Counts
from scripts.benchmarks.peak import against_peak
from utils.errors import RunError
from utils.runs.provenance import ROOT

BENCHMARK = "scripts/benchmark.py"


@pytest.fixture
def call(demo, tmp_path, monkeypatch):
    """call(*words): the report of `step` on small models and the demo, in batches of 12."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    monkeypatch.setattr(step, "against_peak", lambda *_: ({}, "no peak"))

    def call(*words):
        common = flags(demo, tmp_path, "--batch_size", "12")
        return benchmark.main(["step", "--dataset", "demo", *words, *common[2:]])

    return call


@pytest.fixture
def log(monkeypatch):
    """What happens, in order: `joint` and `twice` for their steps, `read` for a sample.

    A step of joint takes one second, one of `twice` two. The first takes a thousand more, and of a row, whose first two
    steps are counted and not timed, the first three.
    """
    events, now = [], [0.0]

    class Once(Joint):
        name, cost, slow = "joint", 1.0, 1

        def after_backward(self, output):
            super().after_backward(output)
            events.append(self.name)
            now[0] += self.cost + 1000 * (self.slow > 0)
            self.slow -= 1

    class Twice(Once):
        name, cost, slow = "twice", 2.0, 3

    monkeypatch.setitem(METHODS, "joint", Once)
    monkeypatch.setitem(METHODS, "twice", Twice)
    monkeypatch.setattr(step, "ROWS", [*step.ROWS, "twice"])
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    read = AudioVisualClips.__getitem__
    monkeypatch.setattr(AudioVisualClips, "__getitem__", lambda self, i: events.append("read") or read(self, i))
    return events


def times_of(text):
    return table_of(text.split("\n\n")[1])


def counts_of(text):
    return {row["method"]: row for row in table_of(text.split("\n\n")[2])}


AGAINST_JOINT = ("--against", "joint", "--steps")


def test_twice_the_work_is_a_ratio_of_two(call, log, capsys):
    text = call("--methods", "twice", *AGAINST_JOINT, "3")
    assert text in capsys.readouterr().out
    (row,) = times_of(text)
    assert row == {"method": "twice", "ms a step": "2000.0", "joint, ms a step": "1000.0", "ratio, median": "2.00",
                   "ratio, range": "2.00 to 2.00", "forward": "1", "backward": "1", "FLOPs": "1.00"}  # fmt: skip
    assert "demo, batches of 12, on cpu, fp32: 5 rounds of 3 steps, in turn with joint" in text


def test_row_and_reference_alternate_on_batches_read_before(call, log):
    call("--methods", "twice", "joint", *AGAINST_JOINT, "2", "--rounds", "6")
    steps = 1 + 2 * 6
    events = [event for event in log if event != "read"]
    # Two steps of a row are counted and not timed.
    one = ["twice"] * 2 + ["joint", "twice"] * steps
    assert events == one + ["joint"] * 2 + ["joint", "joint"] * steps
    first = log.index("twice")
    assert log[first : first + len(one)] == one
    # The next comparison begins by reading the batches of its row, and does not read those of the reference again.
    assert log[first + len(one) :] == ["read"] * 48 + events[len(one) :]


def test_the_median_and_the_range_are_of_the_rounds():
    seconds = {"joint": [9, 1, 1, 2, 2, 1, 1], "other": [90, 1, 1, 4, 8, 4, 4]}
    rounds = timing.in_turn([iter(column) for column in seconds.values()], steps=2, rounds=3, label="")
    assert rounds == [(2, 2), (4, 12), (2, 8)]
    row = timing.compare("other", "joint", [(1, 3), (2, 2), (4, 8), (1, 9), (2, 5)], "ms", 1000)
    assert row == {"method": "other", "ms": "5000.0", "joint, ms": "2000.0", "ratio, median": "2.50",
                   "ratio, range": "1.00 to 9.00"}  # fmt: skip


@pytest.mark.parametrize("device, wait", [("cuda", ["wait"]), ("cpu", [])])
def test_the_clock_is_read_when_the_device_has_finished(monkeypatch, device, wait):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(timing, "perf_counter", lambda: events.append("clock") or 0.0)
    next(timing.clock(torch.device(device), lambda: events.append("work")))
    assert events == [*wait, "clock", "work", *wait, "clock"]


def test_the_step_is_the_training_loops(tiny_model, tiny_run, make_args, monkeypatch):
    assert step.step is train.step
    sizes = []
    monkeypatch.setattr(
        train, "step", lambda run, method, batch, *_: sizes.append(len(batch)) or real(run, method, batch)
    )
    real, model, args = step.step, tiny_model(), make_args()
    train_epoch(tiny_run(model, args), Joint(args, model))
    assert sizes == [4, 4, 2]


def test_the_bare_step_is_joint_trainings(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    weights = []
    for name in ("bare", "contiguous", "joint"):
        row = step.take(name, [*flags(demo, tmp_path), "--method", "joint", "--unimodal_loss", "none"], True)
        row.step()
        row.step()
        weights.append(row.run.model)
    bare, contiguous, joint = weights
    assert all(torch.equal(p, q) for p, q in zip(bare.parameters(), joint.parameters(), strict=True))
    for p, q in zip(contiguous.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert bare.training and joint.training


def test_every_row_at_work(call, demo, tmp_path):
    teachers = save_teachers(tmp_path, SMALL)
    own = ["--modality", "visual", "--held_out", "0.17", "--teachers", *teachers]
    text = call(*own)
    assert [row["method"] for row in times_of(text)] == step.USUAL and {*METHODS} < {*step.USUAL}
    work = {row["method"]: (row["forward"], row["backward"], row["FLOPs"]) for row in times_of(text)}
    one = [name for name in step.USUAL if work[name][:2] == ("1", "1")]
    assert {*step.USUAL} - {*one} == {"naive_split", "unimodal", "agm", "mmpareto"}
    assert work["unimodal"][:2] == ("visual 1", "visual 1")
    assert work["mmpareto"][:2] == work["naive_split"][:2] == ("1", "2")
    # The third of AGM's passes is of one sample of zeros, beside the twelve of the batch.
    assert work["agm"][:2] == ("2.08", "2.08")
    assert work["joint"][2] == work["inforeg"][2] == "1.00" and 1.2 < float(work["g2d"][2]) < 1.6
    counts = counts_of(text)
    assert {name for name, row in counts.items() if row["host reads"] != "0"} == {"naive", "naive_split"}
    several = {name for name, row in counts.items() if row["backward calls"] != "1"}
    assert several == {"naive", "naive_split", "mmpareto", "mla"}
    copied = {name: float(row["more bytes"]) for name, row in counts.items()}
    assert copied["joint"] == pytest.approx(0, abs=0.2) and copied["inforeg"] == pytest.approx(4, abs=0.2)
    operations = {name: int(row["more operations"]) for name, row in counts.items()}
    assert 0 < operations["joint"] < operations["inforeg"] < operations["naive"]


def test_what_the_user_has_not_given(demo, tmp_path):
    words = ["--encoder", "convnet", "--demo_clips", "64"]
    found = step.flags_of("demo", ["g2d", "unimodal", "naive_split", "inforeg_split"], words, tmp_path)
    assert found["bare"] == ["--dataset", "demo", "--method", "joint", *words]
    assert found["unimodal"][-2:] == ["--modality", "visual"]
    teachers = [f"{name}={tmp_path}/{name}.pt" for name in ("audio", "visual")]
    assert found["g2d"] == ["--dataset", "demo", "--method", "g2d", *words, "--teachers", *teachers]
    assert set(step.take("g2d", found["g2d"], True).run.model.modalities) == {"audio", "visual"}
    split = ["--dataset", "demo", "--method", "inforeg", *words, "--unimodal_loss", "split"]
    assert found["naive_split"] == found["inforeg_split"] == split
    given = step.flags_of("demo", ["unimodal"], [*words, "--modality", "audio"], tmp_path)
    assert given["unimodal"][-2:] == ["--modality", "audio"]


@pytest.mark.parametrize("method, figure", [("inforeg", "regulated"), ("opm", "drop_rate"), ("valuation", "copies")])
def test_the_eighth_epoch_with_open_windows(demo, tmp_path, monkeypatch, method, figure):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    run, method, batches = runs.prepare([*flags(demo, tmp_path), "--method", method])
    assert {len(batch) for batch in batches} == {16} and len(batches) >= 3 and run.epoch == 7 and run.model.training
    for batch in batches:
        train.step(run, method, batch)
    record = method.on_epoch_end(run)
    assert record["prime_window"] == {"audio": True, "visual": True}
    assert sum(record[figure].values()) > 0


def test_the_last_batch_of_a_small_split_is_left_out(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    *_, batches = runs.prepare([*flags(demo, tmp_path, "--batch_size", "20"), "--method", "joint"])
    assert [len(batch) for batch in batches] == [20, 20]
    with pytest.raises(RunError, match="--batch_size 49: the training split has only 48 samples"):
        runs.prepare([*flags(demo, tmp_path, "--batch_size", "49"), "--method", "joint"])


def test_the_samples_are_spread_over_the_split():
    assert list(runs.few(range(100), 20).indices) == list(range(0, 100, 5))
    assert list(runs.few(range(30), 20).indices) == list(range(20))
    assert list(runs.few(range(7), 20).indices) == list(range(7))


def test_flags_go_to_those_that_have_them():
    words = ["--frames", "1", "--teachers", "audio=a", "visual=b", "--beta=0.5", "--lr", "0.1", "--typo", "3"]
    common = ["--frames", "1", "--lr", "0.1"]
    assert step.deal(words, "demo", ["g2d", "inforeg", "ogm"]) == {
        "joint": [*common, "--typo", "3"],
        "g2d": ["--frames", "1", "--teachers", "audio=a", "visual=b", "--lr", "0.1"],
        "inforeg": ["--frames", "1", "--beta=0.5", "--lr", "0.1"],
        "ogm": common,
    }


@pytest.mark.parametrize(
    "words, named",
    [
        (["--methods", "ogm", "--beta", "1"], "--beta is a flag of --method inforeg"),
        (["--methods", "gblending", "--unimodal_loss", "split"], "--unimodal_loss does not apply: gblending"),
        (["--methods", "ogm", "--method", "agm"], "by --methods"),
        (["--methods", "ogm", "--rounds", "4"], "--rounds 4"),
        (["--methods", "ogm", "--json", "nowhere/a.json"], "nowhere does not exist"),
        (["--methods", "nothing"], "invalid choice: 'nothing'"),
        (["--methods", "gblending_split"], "invalid choice: 'gblending_split'"),
    ],
)
def test_flags_that_are_refused(call, capsys, words, named):
    with pytest.raises(SystemExit):
        call(*words)
    assert named in capsys.readouterr().err


def test_the_command_ends_in_one_sentence(monkeypatch):
    words = "benchmark.py step --dataset GRID --methods ogm --data_root nowhere --device cpu".split()
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="^error: nowhere does not exist"):
        runpy.run_path(benchmark.__file__, run_name="__main__")


def test_the_commands_that_are_documented():
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/benchmarks/*.py"), ROOT / BENCHMARK]
    lines = [line for file in documents for line in file.read_text().replace("\\\n", " ").splitlines()]
    found = [line for line in lines if f"python {BENCHMARK} " in line]
    for line in found:
        own, words = benchmark.read(line.split(BENCHMARK)[1].split("#")[0].split("`")[0].split())
        parse(["--dataset", own.dataset, *words])
        assert own.command in benchmark.COMMANDS
    assert len(found) > 10


def test_every_number_is_kept(call, log, tmp_path):
    path = tmp_path / "found.json"
    text = call("--methods", "twice", *AGAINST_JOINT, "3", "--json", str(path))
    found = json.loads(path.read_text())
    assert found["command"].startswith("python scripts/benchmark.py step --dataset demo --methods twice")
    assert found["markdown"] == text and text.endswith(f"\n{found['machine_line']}\n")
    assert f"1 thread(s); no GPU; PyTorch {torch.__version__}" in found["machine_line"]
    row = found["rows"]["twice"]
    assert row["seconds"] == [[1.0, 2.0]] * 5  # of a step
    assert row["counts"]["forward"] == {"audio": 12, "visual": 12} and found["bare"]["counts"]["flops"] > 0
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] and "commit" in found


def test_the_share_of_the_peak(tiny_run, tiny_model, make_args, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    run = tiny_run(tiny_model(), make_args(precision="fp32", batch_size=4))
    monkeypatch.setattr("scripts.benchmarks.peak.SIDE", {"cpu": 10})
    monkeypatch.setattr("scripts.benchmarks.peak.IMAGES", {"cpu": 1})
    monkeypatch.setattr("scripts.benchmarks.peak.conv2d", lambda *_, **__: now.__setitem__(0, now[0] + 2.0))
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: now.__setitem__(0, now[0] + 0.5) or matmul(a, b))
    rates, told = against_peak(iter([4.0] * 6), Counts({}, {}, 1, 0, 9, int(2e9), int(7e9)), run, rounds=5)
    # 2 x 10^3 operations a product; 2 x 9 x 64 for each of the 64 x 56 x 56 numbers that the convolution gives.
    convolution = 2 * 9 * 64 * 64 * 56 * 56 / 2.0
    assert rates == {"bare": [0.5e9] * 5, "matmul": [4000.0] * 5, "convolution": [convolution] * 5}
    assert told.startswith("The bare step: 0.5 GFLOP a sample, 0.5 GFLOP/s; ")
    assert told.endswith(" Its operations read and return 7.00 GB.")
    assert f"{0.5e9 / convolution:.2f} (" in told and "of a convolution's rate" in told
