"""A method's tensors lie where its model does, and a step asks for no value: it runs where no tensor has values."""

from contextlib import nullcontext

import pytest
import torch
from helpers.contract import N
from helpers.meta import META, no_waits

from engine.train import Totals, step
from engine.watch import Watch, vital
from inforeg.movement import Movement
from methods import METHODS
from methods import run as runs
from methods.base import Method
from scripts.benchmarks.runs import EPOCH, open_windows


class Off(nullcontext):
    """In place of torch.autocast, which does not know the device."""

    def __init__(self, *_, **__):
        super().__init__()

    def __call__(self, function):
        return function


def collect(model, loader, device, fn):
    """What `Run.collect` gives, with zeros for values: those that a hook reads are on the host already."""
    parts = [fn(batch.to(device)) for batch in loader]
    return {name: torch.zeros(N, *part.shape[1:], dtype=part.dtype) for name, part in parts[0].items()}


@pytest.fixture
def two_steps(begin, tiny_batch, monkeypatch):
    """two_steps(name): two steps of a method in its eighth epoch, with open windows and all that the loop adds up."""
    monkeypatch.setattr(torch, "autocast", Off)
    monkeypatch.setattr(runs, "collect", collect)
    # The parameters that the method and the optimizer know go to the device, as they do with real ones, not others.
    monkeypatch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)

    def two_steps(name):
        method, run = begin(name)
        run.model.to(META)
        run.device = META
        held = [p for group in run.optimizer.param_groups for p in group["params"]]
        assert all(p.is_meta for p in held) and {*held} >= {p for p in run.model.parameters() if p.requires_grad}
        run.epoch = EPOCH  # in which whoever warms up acts
        open_windows(method)
        method.on_fit_start(run)
        movement, totals, watch = Movement(run.model.encoders, run.optimizer), Totals(), Watch(0, behind=True)
        try:
            method.on_epoch_start(run)
        except (RuntimeError, NotImplementedError) as error:  # before the first step of an epoch a method may read
            assert "meta" in str(error), error
        movement.start_epoch()
        run.model.train()
        with no_waits():
            batch = tiny_batch(run.model.modalities).to(META)
            for number in range(2):
                losses, output = step(run, method, batch, movement)
                totals.add(losses, output)
                watch.add(number, batch.index, vital(method, losses, output))

    return two_steps


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_without_a_value(two_steps, name):
    two_steps(name)


class Reads(Method):
    def after_backward(self, output):
        super().after_backward(output)
        self.scale = output.logits.mean().item()


class Elsewhere(Method):
    def losses(self, output):
        losses = super().losses(output)
        return losses | {"loss": losses["loss"] + (output.logits * torch.ones(output.logits.shape)).sum()}


class Waits(Method):
    def losses(self, output):
        self.scale = torch.ones(()).to(output.logits.device)
        return super().losses(output)


class Makes(Method):
    def losses(self, output):
        self.scale = torch.tensor(1.0, device=output.logits.device)
        return super().losses(output)


@pytest.mark.parametrize("method", [Reads, Elsewhere, Waits, Makes])
def test_a_read_and_a_tensor_on_another_device_are_errors(two_steps, monkeypatch, method):
    monkeypatch.setitem(METHODS, "wrong", method)
    with pytest.raises(RuntimeError, match="meta"):
        two_steps("wrong")
