"""Checkpoints within an epoch: by the clock or by a signal, and bit for bit as if there had been none."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers.forked import file
from helpers.places import ROOT
from helpers.resuming import assert_resumes_after_every_step, train_stopped
from helpers.runs import SETTINGS, STEPS, checkpoint, flags, folder_of, rows_of, train

import main as program
from dataset.demo import Demo
from dataset.loader import make_loader
from engine.checkpoints import Checkpoints, check_state, on_device
from methods import METHODS
from methods.base import Method
from methods.joint import Joint
from scripts.kill import differences
from utils.errors import RunError
from utils.runs.history import History

# --- Every method, stopped after every step of an epoch


@pytest.mark.parametrize("name", METHODS)
def test_a_stop_after_any_step_changes_nothing(begin, tmp_path, name):
    assert_resumes_after_every_step(lambda: begin(name), tmp_path)


class Forgetful(Joint):
    """Scales the gradients by the running mean of the loss, which `state_dict` does not hold."""

    mean, steps = 0.0, 0

    def losses(self, output):
        losses = super().losses(output)
        self.steps += 1
        self.mean = self.mean + (losses["loss"].detach() - self.mean) / self.steps
        return losses

    def after_backward(self, output):
        super().after_backward(output)
        torch._foreach_mul_([p.grad for p in self.model.parameters()], self.mean)


class ForgetfulWithin(Joint):
    """Keeps the sums of the epoch to itself: its record is another after a stop within an epoch, and only then."""

    def on_epoch_start(self, run):
        self.sum = 0

    def after_backward(self, output):
        super().after_backward(output)
        self.sum = self.sum + output.logits.detach().mean()

    def on_epoch_end(self, run):
        return super().on_epoch_end(run) | {"sum": {"audio": float(self.sum)}}


class Remembering(Forgetful):
    def state_dict(self):
        return super().state_dict() | {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.mean, self.steps = state["mean"], state["steps"]


@pytest.mark.parametrize("method, error", [(Forgetful, AssertionError), (ForgetfulWithin, AttributeError)])
def test_a_method_that_forgets_is_found_out(begin, tmp_path, monkeypatch, method, error):
    monkeypatch.setitem(METHODS, "joint", method)
    with pytest.raises(error):
        assert_resumes_after_every_step(lambda: begin("joint"), tmp_path)


def test_a_method_that_remembers_is_not(begin, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "joint", Remembering)
    assert_resumes_after_every_step(lambda: begin("joint"), tmp_path)


def test_what_a_checkpoint_can_hold():
    check_state({"a": [1, 2.0, None, True, "x", (torch.ones(2), {"b": nn.Parameter(torch.ones(1))})]}, "it")
    state = {"a": [torch.ones(2), (1, {"b": torch.zeros(1)})], "c": "x"}
    moved = on_device(state, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["a"][1][1]["b"].is_meta
    assert (moved["a"][1][0], moved["c"], state["a"][0].is_meta) == (1, "x", False)


@pytest.mark.parametrize(
    "value",
    [np.zeros(3), np.float64(1), {1, 2}, [torch.Generator()], {"deep": (Path("x"),)}],
    ids=lambda v: type(v).__name__,
)
def test_what_cannot_be_kept_is_refused_before_the_first_step(demo, tmp_path, monkeypatch, value):
    steps, after = [], Method.after_backward
    monkeypatch.setattr(Method, "after_backward", lambda *a: (after(*a), steps.append(1)))
    real = Method.state_dict
    monkeypatch.setattr(METHODS["joint"], "state_dict", lambda self: real(self) | {"odd": value})
    with pytest.raises(RunError) as refused:
        train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    said = str(refused.value)
    assert said.startswith("the state of Joint['odd']") and "state_dict()" in said and "\n" not in said
    assert steps == []


def test_the_loader_begins_at_a_batch_without_reading_those_before(tiny_run, tiny_model, make_args):
    data, read = tiny_run(tiny_model(), make_args()).train, []

    class Watched(type(data)):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    data.__class__ = Watched
    whole = [batch.index.tolist() for batch in make_loader(data, 4, 0, seed=1, epoch=2, shuffle=True)]
    for first in range(4):
        read.clear()
        loader = make_loader(data, 4, 0, seed=1, epoch=2, shuffle=True, first=first)
        assert [batch.index.tolist() for batch in loader] == whole[first:] and len(loader) == len(whole[first:])
        assert read == sum(whole[first:], [])


# --- Runs


@pytest.mark.parametrize("setting", ["inforeg lr", "inforeg official", "mmpareto", "valuation"])
def test_a_stopped_run_goes_on_within_the_epoch(demo, tmp_path, setting):
    more = [*SETTINGS[setting], "--epochs", "4", "--lr_step", "3"]
    whole = train(demo, tmp_path / "whole", *more)
    said = train_stopped(demo, tmp_path, *more, after=2 * STEPS + 2)
    assert said == "stopped by SIGTERM in epoch 3, step 2: go on with --resume"
    folder = tmp_path / "demo" / more[1] / "test" / "seed0"
    assert checkpoint(folder)["begun"]["step"] == 2 and len(rows_of(folder)) == 2
    assert checkpoint(folder, "previous.pt").get("begun") is None
    said = train_stopped(demo, tmp_path, *more, "--resume", after=1)
    assert said == "stopped by SIGTERM in epoch 3, step 3: go on with --resume"
    train(demo, tmp_path, *more, "--resume")
    assert differences(whole, folder) == []


def test_a_run_that_is_stopped_while_it_is_evaluated_does_not_train_the_epoch_again(demo, tmp_path, monkeypatch):
    more = ["--method", "inforeg", "--threshold", "-10", "--epochs", "3", "--val_fraction", "0.17"]
    whole = train(demo, tmp_path / "whole", *more)
    get = Demo.__getitem__

    def send(self, position):
        if not self.train and rows == 1:
            signal.raise_signal(signal.SIGINT)
        return get(self, position)

    append, rows = History.append, 0

    def count(self, *epoch):
        nonlocal rows
        append(self, *epoch)
        rows = len(self.epochs)

    with monkeypatch.context() as patch:
        patch.setattr(Demo, "__getitem__", send)
        patch.setattr(History, "append", count)
        exits = []
        patch.setattr("os._exit", exits.append)
        with pytest.raises(
            RunError, match="^stopped by SIGINT in epoch 2, which is trained but not evaluated: "
        ) as stop:
            train(demo, tmp_path, *more)
    assert stop.value.status == 130 and set(exits) == {130}  # by each signal after the first
    folder = folder_of(flags(demo, tmp_path, *more))
    steps, after = [], METHODS["inforeg"].after_backward
    monkeypatch.setattr(METHODS["inforeg"], "after_backward", lambda *a: (after(*a), steps.append(1)))
    train(demo, tmp_path, *more, "--resume")
    assert len(steps) == STEPS and differences(whole, folder) == []


def test_a_run_that_is_stopped_between_epochs_goes_on_from_the_last(demo, tmp_path, monkeypatch):
    """In what a method does before its first step: a diagnosis, an estimate."""
    more = [*SETTINGS["gblending"], "--epochs", "3"]
    whole = train(demo, tmp_path / "whole", *more)
    measure, calls = METHODS["gblending"].measure, []

    def send(self, run, tasks):
        calls.append(tasks)
        if run.epoch == 2:
            signal.raise_signal(signal.SIGTERM)
        return measure(self, run, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS["gblending"], "measure", send)
        with pytest.raises(RunError, match="^stopped by SIGTERM: go on with --resume$"):
            train(demo, tmp_path, *more)
    folder = folder_of(flags(demo, tmp_path, *more))
    assert checkpoint(folder)["epoch"] == 1
    train(demo, tmp_path, *more, "--resume")
    assert differences(whole, folder) == []


def test_by_the_clock(demo, tmp_path, monkeypatch):
    more = ["--method", "inforeg", "--threshold", "-10", "--epochs", "3"]
    whole = train(demo, tmp_path / "whole", *more, "--checkpoint_minutes", "0")
    saved, write = [], Checkpoints.write

    def note(self, name, state):
        saved.append((name, state["epoch"], (state["begun"] or {}).get("step")))
        write(self, name, state)

    class Killed(Exception):
        pass

    after, steps = METHODS["inforeg"].after_backward, []

    def die(self, output):
        after(self, output)
        steps.append(1)
        if len(steps) == STEPS + 3:
            raise Killed

    monkeypatch.setattr(Checkpoints, "write", note)
    with monkeypatch.context() as patch:
        patch.setattr(METHODS["inforeg"], "after_backward", die)
        with pytest.raises(Killed):
            train(demo, tmp_path, *more, "--checkpoint_minutes", "1e-9")
    assert saved == [("last.pt", e, s) for e, s in [(-1, 1), (-1, 2), (-1, 3), (0, None), (0, 1), (0, 2)]]
    steps.clear()
    monkeypatch.setattr(METHODS["inforeg"], "after_backward", lambda *a: (after(*a), steps.append(1)))
    folder = train(demo, tmp_path, *more, "--resume", "--checkpoint_minutes", "1e9")
    assert len(steps) == 1 + STEPS and differences(whole, folder) == []
    assert saved[6:] == [("last.pt", 1, None), ("last.pt", 2, None)]


def test_numbers_that_are_not_finite_are_not_saved(demo, tmp_path, monkeypatch):
    losses, calls = METHODS["joint"].losses, []

    def rotten(self, output):
        calls.append(output)
        found = losses(self, output)
        return found | {"loss": found["loss"] / 0} if len(calls) == 2 else found

    monkeypatch.setattr(METHODS["joint"], "losses", rotten)
    with pytest.raises(RunError, match="train loss became NaN or infinite in epoch 1, step 2"):
        train(demo, tmp_path, "--method", "joint", "--checkpoint_minutes", "1e-9")
    folder = folder_of(flags(demo, tmp_path, "--method", "joint"))
    assert checkpoint(folder)["begun"]["step"] == 1


def test_a_checkpoint_within_an_epoch_stays_on_its_kind_of_device(demo, tmp_path):
    more = ["--method", "joint", "--epochs", "2"]
    train_stopped(demo, tmp_path, *more, after=2)
    folder = folder_of(flags(demo, tmp_path, *more))
    state = checkpoint(folder)
    state["begun"]["device"] = "cuda"
    torch.save(state, folder / "last.pt")
    (folder / "checksums.txt").unlink()
    with pytest.raises(RunError, match="written within an epoch on cuda: go on with --device cuda"):
        train(demo, tmp_path, *more, "--resume")


def test_the_handlers_are_those_of_before_when_a_run_has_ended(demo, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train_stopped(demo, tmp_path, "--method", "joint", "--epochs", "1", after=2)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    train(demo, tmp_path, "--method", "joint", "--epochs", "1", "--resume")


def test_the_program_ends_in_one_line(forked, demo, tmp_path):
    """The whole process group is sent the signal, as schedulers do it: loaders' workers, too."""
    argv = flags(demo, tmp_path, "--method", "joint", "--epochs", "999", "--encoder", "convnet", "--workers", "2")
    program = forked.start(file(ROOT / "main.py", *argv))
    folder = folder_of(argv)
    while not (folder / "metrics.jsonl").exists():
        os.kill(program.pid, 0)
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGTERM)
    ended = program.wait(timeout=60)
    said = ended.stderr
    assert ended.returncode == 143, said
    last = said.splitlines()[-1]
    assert last.startswith("stopped by SIGTERM in epoch ") and last.endswith(": go on with --resume"), said
    assert "Traceback" not in said and not (folder / "lock").exists()


def test_before_its_first_step_a_run_stops_at_once(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "build", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunError, match="^stopped by SIGTERM: go on with --resume$"):
        train(demo, tmp_path, "--method", "joint")
    assert not (tmp_path / "demo").exists()
