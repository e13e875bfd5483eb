"""Methods and runs that are stopped after a step, and go on from what a checkpoint holds."""

import signal

import pytest
import torch
from helpers.contract import BATCH, EPOCHS, N, epoch_of
from helpers.runs import train

from engine.checkpoints import Begun, check_state
from engine.train import train_epoch
from methods import method_of
from utils.errors import RunError
from utils.runs.generators import random_states, restore_random_states


def _state(method, run):
    check_state(method.state_dict(), type(method).__name__)
    states = {"model": run.model.state_dict(), "method": method.state_dict(), "optimizer": run.optimizer.state_dict()}
    return states | {"random": random_states()}


def _load(state, method, run):
    """As `fit` does it, after `on_fit_start`."""
    run.model.load_state_dict(state["model"])
    method.load_state_dict(state["method"])
    run.optimizer.load_state_dict(state["optimizer"])
    restore_random_states(state["random"])


def assert_resumes_after_every_step(make, folder):
    """`make()` gives a new method and its run; what goes on in them knows a file in `folder` alone.

    The second epoch is left after each of its steps, and each epoch after its second step and at its end.
    """
    method, run = make()
    torch.manual_seed(0)
    records, files = [], {}
    for epoch in range(EPOCHS):

        def keep(totals, watch, movement, epoch=epoch):
            files[epoch, run.step] = folder / f"{epoch} {run.step}.pt"
            begun = Begun(0.0, "cpu", run.step, totals.state_dict(), movement.state_dict())
            torch.save(_state(method, run) | {"begun": vars(begun)}, files[epoch, run.step])

        run.epoch = epoch
        records.append((train_epoch(run, method, after_step=keep), method.on_epoch_end(run)))
        files[epoch + 1, 0] = folder / f"{epoch + 1} 0.pt"
        torch.save(_state(method, run) | {"begun": None}, files[epoch + 1, 0])
    expected = run.model.state_dict()
    assert len(files) >= EPOCHS * (N // BATCH + 1)
    for (epoch, step), file in files.items():
        if step > 5 or epoch != 1 and step not in (0, 2):  # an epoch of valuation is longer
            continue
        state = torch.load(file, weights_only=True)
        again, resumed = make()
        _load(state, again, resumed)
        resumed.epoch = epoch
        found = []
        if epoch < EPOCHS:
            begun = state["begun"] and Begun(**state["begun"])
            found.append((train_epoch(resumed, again, begun), again.on_epoch_end(resumed)))
        found += [epoch_of(again, resumed, later) for later in range(epoch + 1, EPOCHS)]
        assert found == records[epoch:], f"another record after a stop in epoch {epoch}, step {step}"
        other = [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]
        assert other == [], f"other weights after a stop in epoch {epoch}, step {step}"


def train_stopped(demo, out, *more, after, number=signal.SIGTERM):
    """A run that is sent the signal after so many steps; what it says."""
    method = more[1]
    real, steps = method_of(method).after_backward, []

    def send(self, output):
        real(self, output)
        steps.append(output)
        if len(steps) == after:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError) as stopped:
        patch.setattr(method_of(method), "after_backward", send)
        train(demo, out, *more)
    assert len(steps) == after
    assert stopped.value.status == 128 + number and stopped.value.label == ""
    return str(stopped.value)
