"""Encoders are captured whole by PyTorch's compiler: --compile finds no place where it has to go back to Python."""

import pytest
import torch
import torch._dynamo
from helpers.narrow import NarrowResNet18

from models.encoders import MLP, ConvNet, Transformer

ENCODERS = {
    "resnet18": (lambda: NarrowResNet18(channels=3), (2, 3, 24, 24)),
    "convnet": (lambda: ConvNet(3, frames=True), (4, 3, 16, 16)),
    "mlp": (lambda: MLP(6, 4, layers=2), (6,)),
    "transformer": (lambda: Transformer(6, 10, layers=1), (4, 6)),
}


def capture(encoder):
    """As --compile compiles it, without machine code; an error where it is not one graph."""
    torch._dynamo.reset()
    encoder.compile(dynamic=False, backend="eager", fullgraph=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_one_graph(name):
    make, shape = ENCODERS[name]
    encoder, x = make(), torch.randn(3, *shape)
    state = torch.get_rng_state()
    expected = torch.autograd.grad(encoder(x).square().sum(), [*encoder.parameters()])
    capture(encoder)
    torch.set_rng_state(state)  # of the dropout
    found = torch.autograd.grad(encoder(x).square().sum(), [*encoder.parameters()])
    torch.testing.assert_close(found, expected)


def test_a_choice_by_a_value_is_no_graph():
    class Chooses(MLP):
        def pool(self, maps, batch):
            return maps if maps.mean() > 0 else -maps

    encoder = Chooses(6, 4, layers=2)
    capture(encoder)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        encoder(torch.randn(3, 6))
