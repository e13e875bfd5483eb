"""--precision bf16: the model multiplies matrices in bfloat16, and whatever a method makes of that is float32.

PyTorch's autocast on a CPU leaves softmax, logarithms and sums in bfloat16, where that on CUDA makes them float32; so
the methods' own code has to, and here it is seen to.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.parser import parse
from engine.totals import Totals
from engine.train import step
from inforeg.movement import Movement
from methods import METHODS
from methods.base import Method
from scripts.benchmarks.counts import is_view

HALF = torch.bfloat16
PRODUCTS = {"addmm", "baddbmm", "bmm", "convolution", "mm"}
LAYING = {"_to_copy", "cat", "clone", "stack"}  # which round nothing
# Which make much of what has been rounded before, in the forward pass, too, where methods score their modalities.
MAGNIFYING = {
    "_log_softmax",
    "_softmax",
    "exp",
    "linalg_vector_norm",
    "log",
    "log10",
    "log2",
    "logsumexp",
    "pow",
    "var",
}
OWN = ("losses", "after_backward")  # what a method adds to the model's forward and backward pass


class Dispatched(TorchDispatchMode):
    """The names of the operations by the part of a step that they are in, and by the type of what they return."""

    def __init__(self, method):
        super().__init__()
        self.seen: dict[tuple[str, torch.dtype], set[str]] = {}
        self.part = "loop"
        for name in ("forward", "backward", *OWN):
            setattr(method, name, self.within(name, getattr(method, name)))

    def within(self, part, call):
        def called(*args):
            before, self.part = self.part, part
            try:
                return call(*args)
            finally:
                self.part = before

        return called

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if not is_view(func):
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self.seen.setdefault((self.part, x.dtype), set()).add(func._schema.name.removeprefix("aten::"))
        return result


@pytest.fixture
def steps(begin, tiny_batch):
    """steps(name): two steps of a method in bf16: what was dispatched, the losses, the sums, the method, its run."""

    def steps(name):
        method, run = begin(name)
        run.args.precision = "bf16"
        run.model.float()
        batch = tiny_batch(run.model.modalities)
        splits = [data.images for data in (run.train, run.plain, run.held_out) if data]
        for images in (batch.inputs, *splits):
            images.update({name: x.float() for name, x in images.items()})
        method.on_fit_start(run)
        movement, totals = Movement(run.model.encoders, run.optimizer), Totals()
        method.on_epoch_start(run)
        movement.start_epoch()
        run.model.train()
        with Dispatched(method) as dispatched:
            for _ in range(2):
                losses, output = step(run, method, batch, movement)
                totals.add(losses, output)
        return dispatched.seen, losses, totals.sums, method, run

    return steps


def check(seen, losses, sums, method, run):
    assert seen["forward", HALF] & PRODUCTS and not seen.get(("forward", torch.float32), set()) & PRODUCTS
    assert not seen["forward", HALF] & MAGNIFYING
    for part in (*OWN, "loop"):
        assert seen.get((part, HALF), set()) <= PRODUCTS | LAYING, part
    floats = [*losses.values(), *method.trace.sums.values(), sums]
    floats += [p.grad for p in run.model.parameters() if p.grad is not None] + [*run.model.parameters()]
    assert {x.dtype for x in floats} == {torch.float32}
    kept = [x for x in tree_leaves(method.state_dict()) if isinstance(x, Tensor)]
    assert not [x for x in kept if x.dtype == HALF]


@pytest.mark.parametrize("name", METHODS)
def test_the_model_is_in_bfloat16_and_the_rest_in_float32(steps, name):
    check(*steps(name))


class RoundedLoss(Method):
    def losses(self, output):
        losses = super().losses(output)
        return losses | {"loss": losses["loss"] + output.logits.softmax(dim=1).max().float()}


class RoundedScore(Method):
    def modulate(self, features, batch):
        sure = self.model.fuse(features).softmax(dim=1).amax(dim=1, keepdim=True).float()
        return {name: x * sure for name, x in features.items()}, batch.target


class RoundedState(Method):
    def after_backward(self, output):
        super().after_backward(output)
        self.note("mean", torch.stack([x.detach().sum() for x in output.features.values()]))


@pytest.mark.parametrize("method", [RoundedLoss, RoundedScore, RoundedState])
def test_what_is_made_in_bfloat16_is_noticed(steps, monkeypatch, method):
    monkeypatch.setitem(METHODS, "wrong", method)
    with pytest.raises(AssertionError):
        check(*steps("wrong"))


def test_fp16_is_refused_in_a_sentence(capsys):
    with pytest.raises(SystemExit):
        parse(["--precision", "fp16"])
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert said.partition("error: ")[2].startswith("argument --precision: invalid choice: 'fp16' (choose from ")
