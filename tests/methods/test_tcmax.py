"""TCMax against the sum over every recombination, written out."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, count_backwards, count_samples, gradients, step

from methods.joint import Joint
from methods.tcmax import TCMax, log_partition, recombine
from models.multimodal import Output

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, "concat"), (TWO, "sum"), (TWO, "film"), (TWO, "gated"), (THREE, "concat"), (THREE, "sum")]


class Product(nn.Module):
    """An interaction of any number of modalities, so that no sum over them factorises."""

    def __init__(self, dims):
        super().__init__()
        self.factors = nn.ModuleDict({name: nn.Linear(dim, 3) for name, dim in dims.items()})

    def forward(self, features):
        return torch.stack([self.factors[name](f) for name, f in features.items()]).prod(dim=0)

    def unimodal(self, features):
        return {name: self.factors[name](f) for name, f in features.items()}


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", seed=0):
        model = tiny_model(modalities, "sum" if fusion is Product else fusion, seed)
        if fusion is Product:
            model.fusion = Product(model.dims).double()
        return TCMax(make_args(), model)

    return make


def literal_loss(model, features, target):
    """One pass of the head for each recombination of the batch's features."""
    size = len(target)
    logits = {
        choice: model.fuse({name: features[name][j : j + 1] for name, j in zip(features, choice, strict=True)})[0]
        for choice in itertools.product(range(size), repeat=len(features))
    }
    everything = torch.stack(list(logits.values())).exp().sum()
    true = [logits[(i,) * len(features)][y].exp() for i, y in enumerate(target.tolist())]
    share = [(p / everything).log() for p in true]
    return -sum(share) / size - math.log(size ** len(features) * model.classes)


@pytest.mark.parametrize("modalities, fusion", [*SETTINGS, (THREE, Product)])
def test_loss_and_gradients_are_those_of_all_recombinations(make, tiny_batch, modalities, fusion):
    for seed in range(2):
        method, batch = make(modalities, fusion, seed), tiny_batch(modalities, size=4, seed=seed)
        literal = copy.deepcopy(method.model).train()
        expected = literal_loss(literal, literal.encode(batch.inputs), batch.target)
        expected.backward()
        output, losses = step(method, batch)
        torch.testing.assert_close(losses["loss"], expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(losses["loss_joint"], F.cross_entropy(output.logits, batch.target))
        assert_same_gradients(gradients(method.model), gradients(literal))


def test_loss_by_hand(make):
    # One class has logit a_j + v_k, the other 0, for a = (0, ln 2) and v = (0, ln 3): exp of them 1, 3, 2, 6.
    method = make()
    logits = {"audio": [[0.0, 0.0], [math.log(2), 0.0]], "visual": [[0.0, 0.0], [math.log(3), 0.0]]}
    unimodal = {name: torch.tensor(values, dtype=torch.float64) for name, values in logits.items()}
    assert log_partition(unimodal).item() == pytest.approx(math.log(1 + 3 + 2 + 6 + 4))
    output = Output(sum(unimodal.values()), unimodal, unimodal, torch.tensor([1, 0]))
    expected = math.log(16) - (0 + math.log(6)) / 2 - math.log(2 * 2 * 2)
    assert method.losses(output)["loss"].item() == pytest.approx(expected)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_features_that_tell_the_class_have_all_its_information_once_a_modality(make, modalities):
    # Of M copies of a uniform label and the label itself the total correlation is M log C, whatever the batch's size.
    target = torch.tensor([0, 1, 2, 2, 0, 1])
    unimodal = dict.fromkeys(modalities, 50 * F.one_hot(target).double())
    output = Output(sum(unimodal.values()), unimodal, unimodal, target)
    assert make(modalities).losses(output)["loss"].item() == pytest.approx(-len(modalities) * math.log(3), rel=1e-12)


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_constant_logits_have_no_correlation(make, tiny_batch, modalities, fusion):
    method = make(modalities, fusion)
    for p in method.model.fusion.parameters():
        torch.nn.init.zeros_(p)
    assert step(method, tiny_batch(modalities))[1]["loss"].item() == pytest.approx(0, abs=1e-12)


def test_of_one_sample_it_is_joint_training(make, tiny_model, tiny_batch, make_args):
    batch = tiny_batch(size=1)
    method, joint = make(), Joint(make_args(), tiny_model())
    _, losses = step(method, batch)
    _, joint_losses = step(joint, batch)
    torch.testing.assert_close(losses["loss"], joint_losses["loss"] - math.log(3), rtol=1e-12, atol=1e-14)
    assert_same_gradients(gradients(method.model), gradients(joint.model))


@pytest.mark.parametrize("fusion", ["concat", "film"])
def test_large_logits_stay_finite(make, tiny_batch, fusion):
    method = make(fusion=fusion)
    with torch.no_grad():
        method.model.fusion.head.weight *= 1e5
    _, losses = step(method, tiny_batch())
    assert losses["loss"].isfinite() and all(grad.isfinite().all() for grad in gradients(method.model).values())


@pytest.mark.parametrize("fusion", ["sum", "film"])
def test_the_sums_are_in_full_precision_under_autocast(make, tiny_batch, fusion):
    method, batch = make(fusion=fusion), tiny_batch()
    method.model.float()
    batch.inputs.update({name: x.float() for name, x in batch.inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        output = method.forward(batch)
        loss = method.losses(output)["loss"]
        if fusion == "sum":
            audio, visual = (z.double() for z in output.unimodal.values())
            everything = audio.unsqueeze(1) + visual
        else:
            everything = method.model.fuse(recombine(output.features)).double()
    assert output.logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    true = output.logits.double()[range(6), output.target].mean()
    expected = everything.exp().sum().log() - true - math.log(6 * 6 * 3)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_recombining_runs_no_encoder_again(make, tiny_batch, monkeypatch):
    method = make(fusion="gated")
    forwards, calls = count_samples(method.model.encoders), count_backwards(monkeypatch)
    fused = count_samples({"fusion": method.model.fusion})["fusion"]
    step(method, tiny_batch())
    assert forwards == {"audio": [6], "visual": [6]} and calls == {"backward": 1, "grad": 0}
    assert len(fused) == 4  # the logits, two unimodal read-outs, and all pairs at once
