"""Whole runs through main(): every method and fusion, whatever else is chosen, and that a run is always the same."""

import itertools
import json
import shutil
from collections import Counter, defaultdict
from functools import partial

import pytest
import torch
import torch.utils.tensorboard
from helpers.acting import TAUGHT, acting, learns
from helpers.results import FUSED
from helpers.runs import CLIPS, NARROW, SMALL, STEPS, checkpoint, differing, flags, rows_of, train
from helpers.three import Three

from dataset import DATASETS
from dataset.demo import Demo
from dataset.storage import source
from engine import train as loop
from engine.parser import parse
from engine.setup import make_method
from inforeg.regulation import InfoReg
from main import main
from methods import METHODS
from methods.base import Method
from models.fusion import FUSIONS
from utils.errors import RunError
from utils.runs.plots import own_columns

# What a method records beside the common columns, and the losses it logs beside the common ones.
OWN = {
    "inforeg": {"score", "lead", "alpha", "regulated"},
    "gblending": {"weight"},
    "ogm": {"coefficient"},
    "ogm_ge": {"coefficient"},
    "greedy": {"curated", "speed_ratio"},
    "pmr": {"prototype_score", "prototype_loss", "coefficient", "entropy_weight"},
    "agm": {"kappa"},
    "mmpareto": {"conflict"},
    "cml": {"violation"},
    "mbsd": {"taught", "teaches"},
    "amco": {"score", "mask_rate"},
    "opm": {"drop_rate"},
    "opm_ogm": {"drop_rate", "coefficient"},
    "valuation": {"value", "copies"},
    "relearning": {"purity_train", "purity_held_out", "reset"},
    "g2d": {"learning"},
    "mla": {"kept", "fusion_weight"},
    "cggm": {"coefficient", "cosine"},
    "arl": {"coefficient", "entropy", "dependence"},
    "lfm": {"matching_weight"},
    "reconboost": {"residual"},
    "aug": {"confidence", "classifiers"},
}
LOGS = {
    "umt": ("distance_audio", "distance_visual"),
    "cml": ("calibration",),
    "mbsd": ("kl", "match"),
    "lfm": ("matching",),
    "reconboost": ("residual", "consolidation"),
    "cggm": ("direction",),
}  # losses of another kind
# Who logs a loss for each modality.
LOGS_UNIMODAL = {"gblending", "mmpareto", "dgl", "g2d", "mbsd", "mla", "arl", "cggm", "amco", "aug"}
ADDITIVE = {"concat", "sum"}
# The others take every fusion.
ONLY_FOR = {"unimodal": {"concat"}, "dgl": ADDITIVE, "mmcosine": ADDITIVE, "cggm": ADDITIVE, "mla": {"shared"}}
ONLY_FOR |= {"reconboost": ADDITIVE | {"shared"}, "aug": {"boosted"}}
# So that every class of the small demo stands in the withheld share; 9 of 48 samples.
MORE = {"unimodal": ["--modality", "visual"], "gblending": ["--held_out", "0.17"], "relearning": ["--held_out", "0.17"]}
MORE |= {"mslr": ["--modality_lr", "audio=0.5"]}
WITHHELD = {"gblending": 9, "relearning": 9}


def chosen(method):
    return ["--method", method, *MORE.get(method, [])]


def trained(method):
    return {"visual"} if method == "unimodal" else {"audio", "visual"}


CASES = [(m, f) for m, f in itertools.product(METHODS, FUSIONS) if f in ONLY_FOR.get(m, FUSIONS)]


@pytest.mark.parametrize("method, fusion", CASES, ids=map("-".join, CASES))
def test_every_method_and_fusion_trains_and_records(demo, tmp_path, method, fusion):
    argv = [*chosen(method), "--epochs", "1", *(["--fusion", fusion] if method != "unimodal" else [])]
    folder = train(demo, tmp_path, *argv, "--threshold", "-10")
    assert folder == tmp_path / "demo" / method / "test" / "seed0"
    (row,) = rows_of(folder)
    columns = {"epoch", "lr", "train", "test", "fisher_trace", "gradient_norm", "relative_change", "prime_window"}
    columns |= {"distance", "hold"}
    assert row.keys() == columns | OWN.get(method, set())
    assert row["test"].keys() == FUSED | trained(method)
    logs_unimodal = method in LOGS_UNIMODAL or (method, fusion) == ("greedy", "sum")
    own = {f"loss_{name}" for name in (*LOGS.get(method, ()), *(trained(method) if logs_unimodal else ()))}
    assert row["train"].keys() == {"loss", "loss_joint", "accuracy"} | trained(method) | own
    for name in columns - {"epoch", "lr", "train", "test"} | OWN.get(method, set()):
        assert row[name].keys() - {"fused"} == trained(method)
    assert learns(method, row["fisher_trace"])
    for name, size in row["gradient_norm"].items():  # the mean of squares is no less than the square of the mean
        trace = row["fisher_trace"][name]
        assert 0 <= size <= trace**0.5 * (1 + 1e-6) and (size > 0) == (trace > 0)
    for split, count in (("train", CLIPS * 3 // 4 - WITHHELD.get(method, 0)), ("test", CLIPS // 4)):
        for name in {"accuracy"} | trained(method):
            hits = row[split][name] * count
            assert 0 <= hits <= count and hits == pytest.approx(round(hits))
    held = checkpoint(folder)["model"]
    assert not any(name.startswith("module.") or ".module." in name for name in held)
    assert {name.split(".")[1] for name in held if name.startswith("encoders.")} == trained(method)


# Who is taught has a test of its own below: three steps an epoch overshoot the features even of trained teachers. TCMax
# has its own default for the demo, a tenth of the others' learning rate: at theirs it diverges (docs/METHODS.md).
@pytest.mark.parametrize("method", [method for method in METHODS if method not in TAUGHT])
def test_the_demo_with_resnets_learns_and_is_drawn(demo, tmp_path, method):
    """By the demo's own ResNet-18s for three methods, whose pictures are drawn; by narrow ones for the others."""
    whole = method in ("joint", "inforeg", "relearning")
    encoders = None if whole else NARROW
    folder = train(demo, tmp_path, *chosen(method), "--epochs", "2", encoders=encoders, figures=whole)
    first, last = rows_of(folder)
    assert last["train"]["loss"] < first["train"]["loss"]
    numbers = own_columns([first, last])
    assert set(numbers) <= OWN.get(method, set())
    drawn = {"fisher_trace", "accuracy", "hold", "confusion"} | ({"alpha"} if method == "inforeg" else set())
    drawn |= {"method"} if numbers else set()
    pictures = [*folder.glob("figures/*")]
    assert {path.stem for path in pictures} == (drawn if whole else set())
    for path in pictures:
        assert path.read_bytes().startswith(b"<?xml") and path.stat().st_size > 5000
    for file in tmp_path.rglob("*.pt"):  # 180 MB each
        file.unlink()


def test_who_is_taught_learns_from_the_checkpoints_of_unimodal_runs(demo, tmp_path):
    teachers, modalities = [], ("audio", "visual")
    for name in modalities:
        argv = ["--method", "unimodal", "--modality", name, "--epochs", "6", "--lr", "0.05"]
        teachers.append(f"{name}={train(demo, tmp_path / name, *argv) / 'last.pt'}")
    for method in TAUGHT:
        own = LOGS.get(method, modalities)
        rows = rows_of(train(demo, tmp_path, "--method", method, "--epochs", "4", "--teachers", *teachers))
        for name in ("loss", "loss_joint", *(f"loss_{name}" for name in own)):
            fallen = [row["train"][name] for row in rows]
            assert fallen == sorted(fallen, reverse=True) and len(set(fallen)) == 4, (method, name)


def expected_window(traces, epoch, threshold, official):
    """Relative change before `epoch` by the definition, and whether the window is open."""
    if official and epoch == 0:
        return 1.0, True
    if not official and epoch < 2:
        return None, False
    if official:  # ten zeros stand before the first trace; sums of ten, the one shifted by an epoch
        padded = [0.0] * 11 + traces[:epoch]
        newest, before = sum(padded[-10:]), sum(padded[-11:-1])
    else:
        newest, before = traces[epoch - 1], traces[epoch - 2]
    change = (newest - before) / newest
    return change, change > threshold


@pytest.mark.parametrize(
    "method, variant, threshold",
    [("unimodal", None, -0.13), ("joint", None, 0.0), ("inforeg", "paper", 0.0), ("inforeg", "official", 0.19)],
)
def test_windows_follow_from_the_recorded_traces(demo, tmp_path, method, variant, threshold):
    argv = [*chosen(method), f"--threshold={threshold}", *(["--variant", variant] if variant else [])]
    rows = rows_of(train(demo, tmp_path, *argv, "--epochs", "5", "--lr", "0.2"))
    opened = []
    for row, name in itertools.product(rows, trained(method)):
        decides = "audio" if variant == "official" else name
        traces = [row["fisher_trace"][decides] for row in rows]
        change, is_open = expected_window(traces, row["epoch"], threshold, variant == "official")
        assert row["relative_change"][name] == (None if change is None else pytest.approx(change, rel=1e-12))
        assert row["prime_window"][name] is is_open
        opened.append((row["epoch"] >= 2, is_open))
        if method == "inforeg":
            assert is_open or row["regulated"][name] == 0
            assert (row["alpha"][name] is None) == (row["regulated"][name] == 0)
    assert {(True, True), (True, False)} <= set(opened)  # otherwise the threshold has decided nothing


def test_one_seed_one_result(demo, tmp_path):
    """With a validation split; that of every method is the same, stopped or not, is said in test_resume.py."""
    argv = acting("inforeg", "--epochs", "3", "--val_fraction", "0.34")
    one, other = (train(demo, tmp_path / name, *argv) for name in ("one", "other"))
    for name in ("metrics.jsonl", "result.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert not differing(checkpoint(one)["model"], checkpoint(other)["model"])


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_another_result_and_the_evaluation_alone_reads_the_test_split(
    demo, tmp_path, monkeypatch, method
):
    reads, get = Counter(), Demo.__getitem__

    def count(self, position):
        reads[self.names[position]] += 1
        return get(self, position)

    monkeypatch.setattr(Demo, "__getitem__", count)
    one, other = (train(demo, tmp_path, *acting(method), "--epochs", "3", "--seed", seed) for seed in "01")
    test = [line.split(",")[0] for line in (demo / "test.csv").read_text().splitlines()]
    assert {name: reads[name] for name in test} == dict.fromkeys(test, 2 * 3) and len(test) == CLIPS // 4
    assert (one.name, other.name) == ("seed0", "seed1") and one.parent == other.parent
    assert differing(checkpoint(one)["model"], checkpoint(other)["model"])
    assert (one / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes()


class Silent:
    """In place of TensorBoard's writer."""

    def __init__(self, *_, **__):
        pass

    def add_scalar(self, *_):
        pass

    flush = close = add_scalar


def test_neither_workers_nor_folders_nor_what_is_shown_change_a_result(demo, tmp_path, monkeypatch):
    argv = ["--method", "inforeg", "--epochs", "2", "--modulate_during", "all"]
    one = train(demo, tmp_path / "one", *argv)
    for workers in ("1", "4"):
        other = train(demo, tmp_path / workers, *argv, "--workers", workers)
        assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    shown = train(demo, tmp_path / "shown", *argv, figures=True)
    monkeypatch.setattr(torch.utils.tensorboard, "SummaryWriter", Silent)
    monkeypatch.setattr(loop, "tqdm", partial(loop.tqdm, disable=True))
    loop.tqdm.write = lambda text: None
    silent = train(demo, tmp_path / "silent", *argv)
    monkeypatch.setattr(loop, "tqdm", partial(loop.tqdm.func, miniters=1, mininterval=0))
    loop.tqdm.write = lambda text: None
    monkeypatch.setattr(loop.Totals, "due", lambda self: True)  # the bar has new figures at every step
    drawn = train(demo, tmp_path / "drawn", *argv)
    for other in (shown, silent, drawn):
        assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        assert not differing(checkpoint(one)["model"], checkpoint(other)["model"])


def test_bf16_rounds_the_model_and_neither_traces_nor_scores_nor_weights(demo, tmp_path, monkeypatch):
    argv = ["--method", "inforeg", "--modulate_during", "all", "--epochs", "3"]
    seen = set()
    step = InfoReg.step

    def watched(self, unimodal_logits, target):
        step(self, unimodal_logits, target)
        seen.update(str(tensor.dtype) for tensor in (self._sums, *self.trace._sums.values(), *self._alpha.values()))

    monkeypatch.setattr(InfoReg, "step", watched)
    full = train(demo, tmp_path, *argv)
    half = train(demo, tmp_path, *argv, "--precision", "bf16", "--tag", "bf16")
    assert seen == {"torch.float32"}
    assert {tensor.dtype for tensor in checkpoint(half)["model"].values()} == {torch.float32, torch.int64}
    for row, other in zip(rows_of(full), rows_of(half), strict=True):
        assert other["train"]["loss"] == pytest.approx(row["train"]["loss"], rel=0.02)
        assert other["fisher_trace"] == pytest.approx(row["fisher_trace"], rel=0.1)
        assert other["train"]["loss"] != row["train"]["loss"]


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++, which torch.compile uses on a CPU")
def test_compiled_encoders_train_as_the_others(demo, tmp_path):
    from torch._inductor import config

    argv = ["--method", "inforeg", "--modulate_during", "all", "--epochs", "3"]
    one = train(demo, tmp_path, *argv)
    # Neither what instructions this processor has nor a pool of processes for eight kernels: that is 20 s of trials.
    with config.patch({"cpp.vec_isa_ok": False, "compile_threads": 1}):
        other = train(demo, tmp_path / "compiled", *argv, "--compile")
    for row, compiled in zip(rows_of(one), rows_of(other), strict=True):
        assert compiled["train"]["loss"] == pytest.approx(row["train"]["loss"], rel=1e-3)
        assert compiled["fisher_trace"] == pytest.approx(row["fisher_trace"], rel=1e-2)
    assert checkpoint(one)["model"].keys() == checkpoint(other)["model"].keys()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_clips_kept_in_memory_give_the_same_run(demo, tmp_path, monkeypatch, workers):
    argv = ["--method", "joint", "--epochs", "2", "--frames", "2"]
    one = train(demo, tmp_path / "one", *argv)
    opened, load = [], source.load_frames
    monkeypatch.setattr(source, "load_frames", lambda files: opened.extend(files) or load(files))
    other = train(demo, tmp_path / "other", *argv, "--cache", "ram", "--workers", workers)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert not differing(checkpoint(one)["model"], checkpoint(other)["model"])
    assert len(opened) == len(set(opened)) == 4 * CLIPS  # every frame of every clip, once


def test_every_method_sees_the_same_order_and_starts_from_the_same_encoders(demo, tmp_path, monkeypatch):
    seen, start = defaultdict(list), {}
    forward = Method.forward

    def record(self, batch):
        if self.model.training:
            seen[self.args.method].append(batch.index.tolist())
            start.setdefault(self.args.method, {k: v.clone() for k, v in self.model.state_dict().items()})
        return forward(self, batch)

    monkeypatch.setattr(Method, "forward", record)
    for method in METHODS:
        train(demo, tmp_path, *chosen(method), "--epochs", "2")
    assert seen["joint"] == seen["inforeg"] == seen["unimodal"]
    assert len(seen["joint"]) == 2 * STEPS and seen["joint"][:STEPS] != seen["joint"][STEPS:]
    assert sorted(sum(seen["joint"][:STEPS], [])) == list(range(CLIPS * 3 // 4))
    assert not differing(start["joint"], start["inforeg"])
    visual = {name: value for name, value in start["joint"].items() if name.startswith("encoders.visual")}
    assert not differing(visual, {k: v for k, v in start["unimodal"].items() if k.startswith("encoders.")})


def test_a_window_that_never_opens_makes_inforeg_joint_training(demo, tmp_path):
    joint = train(demo, tmp_path, "--method", "joint", "--epochs", "4")
    closed = train(demo, tmp_path, "--method", "inforeg", "--epochs", "4", "--threshold", "1.0")
    assert not differing(checkpoint(joint)["model"], checkpoint(closed)["model"])
    assert (joint / "result.json").read_bytes() == (closed / "result.json").read_bytes()
    always = train(demo, tmp_path / "always", "--method", "inforeg", "--epochs", "4", "--threshold", "-10")
    assert differing(checkpoint(joint)["model"], checkpoint(always)["model"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_factor_of_the_encoders_learning_rate(demo, tmp_path, optimizer):
    # One step on the whole split from equal weights: the encoders move the factor's times as far, the head as before.
    argv = ["--method", "joint", "--epochs", "1", "--batch_size", "48", "--weight_decay", "0", "--optimizer", optimizer]
    start, moved = {}, {}
    for factor in ("1.0", "1.5"):
        args = parse(flags(demo, tmp_path, *argv))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Demo, "encoders", lambda args: SMALL)
            start = dict(make_method(args).model.named_parameters())
        after = checkpoint(train(demo, tmp_path / factor, *argv, "--encoder_lr_factor", factor))["model"]
        moved[factor] = {name: after[name] - before.detach() for name, before in start.items()}
    for name, step in moved["1.0"].items():
        factor = 1.5 if name.startswith("encoders.") else 1.0
        assert step.any()
        torch.testing.assert_close(moved["1.5"][name], factor * step, rtol=1e-3, atol=1e-6)


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Command lines for a set of three modalities that is registered for the length of a test."""
    monkeypatch.setitem(DATASETS, "three", Three)
    return ["--dataset", "three", "--out", str(tmp_path), "--workers", "0", "--device", "cpu"]


@pytest.mark.parametrize("method", ["joint", "agm", "mmpareto", "greedy", "inforeg", "tcmax"])
def test_three_modalities_train_and_are_probed(three, tmp_path, method):
    from scripts import linear_probe

    result = main([*three, "--method", method])
    names = set(Three.modalities)
    assert result["last"].keys() == {"epoch"} | FUSED | names
    folder = tmp_path / "three" / method / "default" / "seed0"
    (row,) = rows_of(folder)
    assert row["fisher_trace"].keys() == row["prime_window"].keys() == names
    scores = linear_probe.main([str(folder / "last.pt"), "--workers", "0", "--device", "cpu"])
    assert scores.keys() == names and json.loads((folder / "probe.json").read_text()) == scores
    # Levels far apart are separable in any encoder's features; noise is not.
    assert scores["audio"] == 1.0
    if method == "greedy":  # its gates carry the level into the other encoders
        assert max(scores["visual"], scores["depth"]) > 0.8
    else:
        assert max(scores["visual"], scores["depth"]) < 0.8


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_a_fusion_of_two_modalities_refuses_three(three, fusion):
    with pytest.raises(RunError) as refused:
        main([*three, "--fusion", fusion])
    message = str(refused.value)
    assert f"--fusion {fusion}" in message and "audio, visual, depth" in message and "\n" not in message
