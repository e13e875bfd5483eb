"""--accumulate: a batch that is encoded in parts gives what the whole one gives, with every method."""

import helpers.tiny
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.acting import acting
from helpers.contract import BATCH, EPOCHS, THREE, TWO, epoch_of
from helpers.resuming import train_stopped
from helpers.runs import STEPS, rows_of, train
from helpers.steps import host_reads, step
from helpers.tiny import TinyEncoder

from engine.parser import parse
from methods import METHODS
from models.encoders import Transformer
from models.parts import encode_in_parts
from scripts.kill import differences
from utils.errors import CombinationError

EXCHANGING = {"greedy"}


def close(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            close(one[name], other[name])
    elif isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            close(a, b)
    else:
        assert one == (None if other is None else pytest.approx(other, rel=1e-8, abs=1e-10))


@pytest.mark.parametrize(
    "name, modalities",
    [(name, TWO) for name in sorted(METHODS.keys() - EXCHANGING)] + [("inforeg", THREE), ("mmpareto", THREE)],
)
def test_parts_are_the_whole_batch(begin, monkeypatch, name, modalities):
    """Weights, traces, scores and all that is recorded, over epochs in float64, without batch norm."""
    monkeypatch.setattr(helpers.tiny.nn, "BatchNorm2d", nn.Identity)
    records, finals = [], []
    for parts in (1, 4):
        method, run = begin(name, modalities)
        torch.manual_seed(0)
        run.model.parts = parts
        for group in run.optimizer.param_groups:
            group["lr"] = 0.01  # without batch norm
        records.append([epoch_of(method, run, epoch) for epoch in range(EPOCHS)])
        finals.append(run.model.state_dict())
    close(*({str(epoch): record for epoch, record in enumerate(of)} for of in records))
    for key, value in finals[0].items():
        torch.testing.assert_close(finals[1][key], value, rtol=1e-8, atol=1e-10)
    assert any(not torch.equal(finals[1][key], value) for key, value in finals[0].items())  # by rounding


@pytest.mark.parametrize("parts", [2, 3])
def test_batch_norm_sees_each_part_once(parts):
    torch.manual_seed(0)
    encoder = TinyEncoder(3).double().train()
    other = TinyEncoder(3).double().train()
    other.load_state_dict(encoder.state_dict())
    x, wanted = torch.randn(7, 1, 5, 5, dtype=torch.float64), []
    found = encode_in_parts(encoder, x, parts, dropout=False)
    wanted = torch.cat([other(part) for part in x.tensor_split(parts)])
    assert torch.equal(found, wanted)
    for features in (found, wanted):
        features.square().sum().backward()
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in encoder.state_dict().items())
    assert encoder.norm.num_batches_tracked == parts and encoder.norm.track_running_stats
    for p, q in zip(encoder.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)


def test_a_pass_in_evaluation_mode_is_repeated_in_it():
    """AGM's: it is in training mode again when the backward pass comes."""
    torch.manual_seed(0)
    encoder, x = TinyEncoder(3).double(), torch.randn(6, 1, 5, 5, dtype=torch.float64)
    encoder(x)
    grads = []
    for count in (None, 3):
        encoder.eval()
        features = encoder(x) if count is None else encode_in_parts(encoder, x, count, dropout=False)
        encoder.train().zero_grad()
        features.square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters()])
        assert encoder.training
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_dropout_draws_the_same_in_both_passes():
    torch.manual_seed(0)
    encoder, x = Transformer(3, dim=10, layers=1).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    grads = []
    for parts in (lambda: torch.cat([encoder(part) for part in x.tensor_split(2)]),
                  lambda: encode_in_parts(encoder, x, 2, dropout=True)):  # fmt: skip
        torch.manual_seed(1)
        encoder.zero_grad()
        features = parts()
        torch.rand(9)
        features.square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_step_in_parts_waits_for_nothing_and_holds_the_activations_of_one(begin, tiny_batch, monkeypatch):
    held = {}
    for parts in (1, 3):
        method, run = begin("inforeg")
        run.model.parts = parts
        method.on_epoch_start(run)
        method.model.train()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            output = method.forward(tiny_batch(size=BATCH))
        held[parts] = sum(kept)
        losses = method.losses(output)
        losses["loss"].backward()
    assert held[3] < held[1] / 3
    reads = host_reads(monkeypatch)
    step(method, tiny_batch(size=BATCH))
    assert reads == []


@pytest.mark.parametrize("name", ["joint", "inforeg", "mmpareto"])
def test_a_run_in_parts_resumes_after_a_step_bit_for_bit(demo, tmp_path, name):
    more = [*acting(name), "--accumulate", "4", "--epochs", "3"]
    whole = train(demo, tmp_path / "whole", *more)
    train_stopped(demo, tmp_path, *more, after=STEPS + 1)
    assert differences(whole, train(demo, tmp_path, *more, "--resume")) == []
    plain = train(demo, tmp_path / "plain", *acting(name), "--epochs", "3")
    assert rows_of(plain)[0]["train"]["loss"] != rows_of(whole)[0]["train"]["loss"]  # by batch norm


def test_more_parts_than_samples_are_as_many_as_samples(tiny_batch, begin):
    method, run = begin("joint")
    run.model.parts = 99
    run.model.eval()
    batch = tiny_batch(size=5)
    logits = method.forward(batch).logits
    F.cross_entropy(logits, batch.target).backward()
    with torch.no_grad():
        torch.testing.assert_close(method.forward(batch).logits, logits)


def test_what_it_is_not_defined_for_is_refused(demo, tmp_path, capsys):
    with pytest.raises(CombinationError, match="^--accumulate is not defined for greedy: "):
        train(demo, tmp_path, "--method", "greedy", "--accumulate", "2")
    with pytest.raises(SystemExit):
        parse(["--accumulate", "2", "--sync_bn"])
    assert "--sync_bn normalises over the whole batch" in capsys.readouterr().err
