"""Encoders and fusions keep all their tensors where they are put: they run where no tensor has values."""

import inspect

import pytest
import torch
from helpers.meta import META, no_waits
from helpers.tiny import CLASSES

from models import encoders
from models.encoders import MLP, ConvNet, Projection, ResNet18, ResNet34, ResNet50, Staged, Transformer, WordAverage
from models.fusion import FUSIONS
from models.multimodal import MultimodalModel, place

BATCH = 3


def unset(make):
    """A large ResNet without values from the start, which takes a second to draw; its code is ResNet18's."""
    with META:
        return make(3)


# Each class of encoders: what makes it, and the shapes of the samples that it takes.
ENCODERS = {
    ResNet18: [(lambda: ResNet18(3), [(3, 32, 32), (2, 3, 32, 32)])],
    **{larger: [(lambda make=larger: unset(make), [(2, 3, 32, 32)])] for larger in (ResNet34, ResNet50)},
    ConvNet: [(lambda: ConvNet(1), [(1, 16, 16)]), (lambda: ConvNet(3, frames=True), [(4, 3, 16, 16)])],
    Transformer: [(lambda: Transformer(6, 10), [(4, 6)])],
    MLP: [(lambda: MLP(6, 4, layers=2), [(6,), (4, 6)])],
    Projection: [(lambda: Projection(6, 4), [(6,), (4, 6)])],
    WordAverage: [(lambda: WordAverage(9), [(5,)])],
}
CASES = [(kind, make, shape) for kind, cases in ENCODERS.items() for make, shapes in cases for shape in shapes]


def test_every_encoder_is_among_the_cases():
    found = {kind for _, kind in inspect.getmembers(encoders, inspect.isclass) if kind.__module__ == encoders.__name__}
    assert found - {Staged, encoders.ResNet} == set(ENCODERS)


def both_ways(model, inputs):
    """Features and logits forward, their gradients backward, without a wait."""
    with no_waits():
        features = model.encode(inputs)
        logits = [model.fuse(features), *model.unimodal(features).values()]
        torch.stack(logits).sum().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())
    return features, logits


@pytest.mark.parametrize("kind, make, shape", CASES, ids=[f"{kind.__name__}-{len(shape)}" for kind, _, shape in CASES])
def test_encoders(kind, make, shape):
    model = MultimodalModel({"a": make()}, "sum", CLASSES)
    place(model, META)
    x = torch.zeros(BATCH, *shape, dtype=torch.long if kind is WordAverage else torch.float32, device=META)
    features, _ = both_ways(model, {"a": x})
    assert features["a"].shape == (BATCH, model.encoders["a"].dim)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions(tiny_model, tiny_batch, fusion, heads):
    model = tiny_model(fusion=fusion)
    if heads:
        model.add_heads()
    place(model.double(), META)
    _, logits = both_ways(model, tiny_batch(size=BATCH).to(META).inputs)
    assert {z.shape for z in logits} == {(BATCH, CLASSES)}
