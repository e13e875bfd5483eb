"""PyTorch's compiler captures a step of every method whole: forward pass, losses, and what it does to gradients.

So no value and no size of the device decides in Python what comes next, as CUDA graphs need it.
"""

from functools import partial

import pytest
import torch
import torch._dynamo
from helpers.contract import BATCH

from engine.train import step
from inforeg.movement import Movement
from methods import METHODS
from methods.base import Method
from scripts.benchmarks.runs import EPOCH, open_windows

# By the code that a step runs: where several methods have the same, the last.
NAMES = {(m.forward, m.modulate, m.losses, m.after_backward): name for name, m in METHODS.items()}.values()
WHOLE = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)  # an error where it is not one graph


@pytest.fixture
def second_step(begin, tiny_batch):
    """second_step(name, whole): losses and gradients of a method that acts; its parts are passed through `whole`."""

    def second_step(name, whole):
        torch._dynamo.reset()
        method, run = begin(name)
        run.epoch = EPOCH
        open_windows(method)
        method.on_epoch_start(run)
        movement = Movement(run.model.encoders, run.optimizer)
        movement.start_epoch()
        batch = tiny_batch(run.model.modalities, size=BATCH)
        run.model.train()
        torch.manual_seed(0)
        step(run, method, batch, movement)

        def forward(batch):
            output = method.forward(batch)
            return method.losses(output), output

        def edit(output):
            movement.update()
            method.after_backward(output)

        losses, output = whole(forward)(batch)
        run.optimizer.zero_grad()
        method.backward(losses)
        # Without one of its own it is the trace, which InfoReg's has, too: no need to compile it once more.
        own = type(method).after_backward is not Method.after_backward
        (whole(edit) if own else edit)(output)
        return losses, [p.grad for p in run.model.parameters() if p.grad is not None]

    return second_step


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_captured_whole(second_step, name):
    torch.testing.assert_close(second_step(name, WHOLE), second_step(name, lambda part: part), rtol=0, atol=0)


class Chooses(Method):
    def losses(self, output):
        losses = super().losses(output)
        return losses if losses["loss"] > 0 else {}


def test_a_choice_by_a_value_is_not(second_step, monkeypatch):
    monkeypatch.setitem(METHODS, "chooses", Chooses)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        second_step("chooses", WHOLE)
