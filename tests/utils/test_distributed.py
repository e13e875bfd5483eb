"""Several processes are one: with synchronised batch norm the weights, traces and figures of a run are the same."""

import json
import socket
import subprocess
import sys

import pack_shards
import pytest
import torch
from helpers.acting import TAUGHT, acting
from helpers.forked import finish, together
from helpers.places import ROOT
from helpers.runs import checkpoint, flags, folder_of, rows_of, save_teachers, train
from helpers.two import ENCODERS, TOLERANCE, same

from methods import METHODS
from utils.distributed import gather as distributed
from utils.distributed.processes import processes as joined
from utils.errors import RunError


def start(forked, count, jobs, *more):
    return together(forked, count, f"from helpers.two import main; main({[json.dumps(jobs), *more]!r})")


def test_how_a_forked_program_ends_is_told(forked):
    ended = forked.run("import os; print(os.environ['WORD']); raise SystemExit(3)", WORD="said")
    assert (ended.returncode, ended.stdout) == (3, "said\n")
    ended = forked.run("1 / 0")
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr
    assert forked.start("import time; time.sleep(99)").wait(timeout=0.1).returncode == -9


def job(demo, out, method, *more):
    # 48 samples are batches of 17, 17 and 14: shares of 9 and 8, then of 7.
    argv = flags(demo, out, *acting(method))
    argv += ["--epochs", "2", "--batch_size", "17", "--sync_bn"]
    if method in TAUGHT:
        with torch.random.fork_rng():
            argv += ["--teachers", *save_teachers(out, ENCODERS)]
    return [*argv, *more]


@pytest.fixture(scope="module")
def shards(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "demo"
    pack_shards.main(["--data_root", str(demo), "--out", str(out), "--samples", "10"])
    return f"{out}/{{000..006}}.tar"


@pytest.fixture(scope="module")
def runs(forked, demo, shards, tmp_path_factory):
    """{number of processes: {method: folder}}; `shards` is joint training on shards of the same clips, `steps` InfoReg
    by a window of two steps, `long` InfoReg for an epoch more, by one process alone.
    """
    found = {}
    for count in (1, 2):
        out = tmp_path_factory.mktemp(f"of{count}")
        jobs = {method: job(demo, out, method) for method in METHODS}
        jobs["shards"] = job(shards, out / "shards", "joint", "--shuffle_buffer", "16")
        steps = ["--window", "accumulated", "--window_every", "2", "--threshold", "0.2", "--modulate_during", "prime"]
        jobs["steps"] = job(demo, out / "steps", "inforeg", *steps)
        if count == 1:
            jobs["long"] = job(demo, out / "long", "inforeg", "--epochs", "3")
        finish(start(forked, count, list(jobs.values())))
        found[count] = {method: folder_of(argv) for method, argv in jobs.items()}
    return found


@pytest.mark.parametrize("method", [*METHODS, "shards", "steps"])
def test_two_processes_are_one(runs, method):
    one, two = (runs[count][method] for count in (1, 2))
    for alone, shared in zip(rows_of(one), rows_of(two), strict=True):
        same(alone, shared)
    alone, shared = (checkpoint(folder)["model"] for folder in (one, two))
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=TOLERANCE, atol=TOLERANCE)
    assert json.loads((two / "result.json").read_text()).keys() == json.loads((one / "result.json").read_text()).keys()


@pytest.mark.parametrize("regulation", ["proximal", "lr"])
def test_on_one_process_sync_bn_changes_nothing(demo, tmp_path, regulation):
    """The traces and the regulation are also of the batch norms, which it replaces."""
    more = ["--method", "inforeg", "--regulation", regulation, "--threshold", "-10", "--start_epoch", "0"]
    one, other = (train(demo, tmp_path / name, *more, "--epochs", "2", *sync) for name, sync in
                  (("without", []), ("with", ["--sync_bn"])))  # fmt: skip
    assert rows_of(one) == rows_of(other)
    assert all(torch.equal(a, b) for a, b in zip(*(checkpoint(f)["model"].values() for f in (one, other)), strict=True))


def test_parts_of_the_shares_are_parts_of_the_batch(forked, demo, tmp_path):
    """Batch norm sees the same four samples at a time; its running statistics are the first process's."""
    one, two = (
        flags(demo, tmp_path / name, *acting("inforeg"), "--epochs", "2", "--accumulate", parts)
        for name, parts in (("one", "4"), ("two", "2"))
    )
    finish(start(forked, 1, [one]))
    finish(start(forked, 2, [two]))
    for alone, shared in zip(*(rows_of(folder_of(argv)) for argv in (one, two)), strict=True):
        same(*({name: values for name, values in row.items() if name != "test"} for row in (alone, shared)))


def test_another_number_of_processes_goes_on(forked, runs, demo, tmp_path):
    cut = job(demo, tmp_path, "inforeg", "--epochs", "3", "--resume")
    finish(start(forked, 2, [cut], "--stop-after", "2"))
    assert len(rows_of(folder_of(cut))) == 2
    finish(start(forked, 1, [cut]))
    for one, other in zip(rows_of(runs[1]["long"]), rows_of(folder_of(cut)), strict=True):
        same(one, other)


def test_a_signal_to_one_process_stops_all_at_the_same_step(forked, runs, demo, tmp_path):
    cut = job(demo, tmp_path, "joint", "--resume")
    for process in start(forked, 2, [cut], "--term", "1"):
        assert "stopped by SIGTERM in epoch 1, step 2: go on with --resume" in process.wait().stderr
    assert checkpoint(folder_of(cut))["begun"]["step"] == 2
    finish(start(forked, 2, [cut]))
    for one, other in zip(rows_of(runs[1]["joint"]), rows_of(folder_of(cut)), strict=True):
        same(one, other)


def test_one_process_that_dies_takes_the_others_with_it(demo, tmp_path):
    """By torchrun itself, which watches them."""
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "tests/helpers/two.py",
    ]
    words = [json.dumps([job(demo, tmp_path, "joint")]), "--die", "1"]
    done = subprocess.run([*argv, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "exitcode  : -9" in done.stderr and "rank      : 1" in done.stderr
    assert not (folder_of(job(demo, tmp_path, "joint")) / "done").exists()


@pytest.mark.parametrize("taken", [True, False])
def test_what_keeps_processes_from_meeting_is_named(monkeypatch, taken):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        if taken:
            for name, value in {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}.items():
                monkeypatch.setenv(name, value)
        with pytest.raises(RunError) as caught, joined():
            pass
    in_use = f"port {port} of this machine is in use: choose another (torchrun --master_port), or use --standalone"
    assert (str(caught.value) == in_use) == taken
    assert str(caught.value).endswith(": start this by torchrun, or unset WORLD_SIZE") != taken


def test_a_process_says_that_another_one_has_ended(forked, demo, tmp_path):
    """The first one waits for the second, which has been killed."""
    first, second = start(forked, 2, [job(demo, tmp_path, "joint")], "--die", "1")
    assert second.wait().returncode == -9
    ended = first.wait()
    assert ended.returncode == 1
    assert "RunError: another process of this run has ended, whose own message says why" in ended.stderr


def test_fewer_samples_than_processes_and_uneven_shares():
    samples = {"a": torch.arange(7.0).view(7, 1)}
    for count in range(1, 8):
        for processes in range(1, 5):
            parts = [part_of(count, processes, number) for number in range(processes)]
            if count < processes:
                assert parts == [slice(0, count)] * processes
            else:
                taken = [samples["a"][:count][part] for part in parts]
                assert torch.equal(torch.cat(taken), samples["a"][:count])
                assert max(map(len, taken)) - min(map(len, taken)) <= 1


def part_of(count, processes, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world", lambda: processes)
        patch.setattr(distributed, "rank", lambda: number)
        return distributed.share(count)
