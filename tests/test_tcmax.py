"""TCMax against the sum over every recombination, written out."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from steps import (
    assert_evaluates_as_the_model,
    assert_resumes_exactly,
    assert_same_gradients,
    count_backwards,
    count_samples,
    gradients,
    host_reads,
    step,
)

from methods.joint import Joint
from methods.tcmax import TCMax, log_partition
from models.multimodal import Output

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, "concat"), (TWO, "sum"), (TWO, "film"), (TWO, "gated"), (THREE, "concat"), (THREE, "sum")]


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", seed=0):
        return TCMax(make_args(), tiny_model(modalities, fusion, seed))

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


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
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


@pytest.mark.parametrize("fusion", ["sum", "gated"])
def test_one_forward_and_one_backward_a_step(make, tiny_batch, monkeypatch, fusion):
    method = make(fusion=fusion)
    forwards, calls = count_samples(method.model.encoders), count_backwards(monkeypatch)
    step(method, tiny_batch())
    assert forwards == {"audio": [6], "visual": [6]} and calls == {"backward": 1, "grad": 0}


@pytest.mark.parametrize("modalities, fusion", [(THREE, "concat"), (TWO, "film")])
def test_it_resumes_evaluates_and_reads_nothing_back(make, train, tiny_batch, monkeypatch, modalities, fusion):
    epochs = [[tiny_batch(modalities, seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    assert_resumes_exactly(lambda: make(modalities, fusion), train, epochs)
    method = make(modalities, fusion)
    assert_evaluates_as_the_model(method, epochs[0][0])
    reads = host_reads(monkeypatch)
    step(method, epochs[0][0])
    assert reads == []
    method.on_epoch_end(None)
    assert reads
