"""How far encoders move and how much of their way a regulation holds, on gradients made for the purpose."""

import math

import pytest
import torch
import torch.nn as nn

from inforeg import InfoReg, Movement

PUSH = {"audio": 3.0, "visual": 1.0}  # the constant gradient of each encoder's weights


def encoders():
    torch.manual_seed(0)
    return {name: nn.Linear(4, 3).double() for name in PUSH}


def epoch(parts, optimizer, steps=30, edit=lambda parts: None, rates=None):
    """The record of an epoch under constant gradients, which `edit` changes after they have been measured."""
    movement = Movement(parts, optimizer)
    movement.start_epoch()
    for number in range(steps):
        for group in optimizer.param_groups if rates else ():
            group["lr"] = rates[number]
        for name, encoder in parts.items():
            for p in encoder.parameters():
                p.grad = torch.full_like(p, PUSH[name])
        movement.update()
        edit(parts)
        optimizer.step()
    return movement.end_epoch()


def sgd(parts, **settings):
    return torch.optim.SGD([p for encoder in parts.values() for p in encoder.parameters()], **settings)


def test_a_free_encoder_goes_the_way_that_its_gradients_ask_for():
    parts = encoders()
    before = {name: [p.detach().clone() for p in encoder.parameters()] for name, encoder in parts.items()}
    record = epoch(parts, sgd(parts, lr=0.1))
    for name, encoder in parts.items():
        squares = sum(float(((p - w) ** 2).sum()) for p, w in zip(encoder.parameters(), before[name], strict=True))
        assert record["distance"][name] == pytest.approx(math.sqrt(squares), rel=1e-12)
        assert record["distance"][name] == pytest.approx(30 * 0.1 * PUSH[name] * math.sqrt(15), rel=1e-12)
        assert record["hold"][name] == pytest.approx(1, rel=1e-12)
    record = epoch(parts, sgd(parts, lr=0.1), steps=4, rates=[0.1, 0.2, 0.4, 0.8])  # a rate that changes
    assert record["hold"] == pytest.approx({"audio": 1, "visual": 1}, rel=1e-12)


def test_every_encoder_is_measured_at_the_rate_of_its_own_group():
    parts = encoders()
    rates = {"audio": 0.1, "visual": 0.7}
    groups = [{"params": encoder.parameters(), "lr": rates[name]} for name, encoder in parts.items()]
    record = epoch(parts, torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": 9.0}, *groups]))
    assert record["hold"] == pytest.approx({"audio": 1, "visual": 1}, rel=1e-12)
    assert record["distance"]["visual"] == pytest.approx(30 * 0.7 * PUSH["visual"] * math.sqrt(15), rel=1e-12)


def test_momentum_and_weight_decay_are_part_of_the_way():
    parts = encoders()
    momentum = 0.9
    record = epoch(parts, sgd(parts, lr=0.01, momentum=momentum), steps=200)
    # From a buffer of zero, step k of n pushes on for the n - k that are left: the tail is what `hold` lacks to 1.
    expected = 1 - momentum * (1 - momentum**200) / (1 - momentum) / 200
    assert record["hold"]["audio"] == pytest.approx(expected, rel=1e-9)
    decayed = encoders()
    small = epoch(decayed, sgd(decayed, lr=1e-5, weight_decay=30.0), steps=10)  # the weights hardly change
    assert small["hold"] == pytest.approx({"audio": 1, "visual": 1}, rel=1e-2)


def test_the_proximal_term_holds_what_its_equation_says():
    for lr, steps in ((0.02, 25), (0.002, 100), (0.05, 60)):
        parts = encoders()
        anchor = [p.detach().clone() for p in parts["audio"].parameters()]

        def pull(parts, anchor=anchor, alpha=1.5):
            for p, w in zip(parts["audio"].parameters(), anchor, strict=True):
                p.grad += alpha * (p.detach() - w)

        record = epoch(parts, sgd(parts, lr=lr), steps, pull)
        x = 1.5 * lr * steps
        exact = (1 - (1 - 1.5 * lr) ** steps) / x  # a step at a time
        assert record["hold"]["audio"] == pytest.approx(exact, rel=1e-9)
        assert record["hold"]["audio"] == pytest.approx((1 - math.exp(-x)) / x, rel=0.05)  # as the docstring has it
        assert record["hold"]["visual"] == pytest.approx(1, rel=1e-12)


def test_inforeg_holds_the_encoder_that_is_ahead_and_no_other():
    parts = encoders()
    part = InfoReg(parts, beta=1.0, start_epoch=0, during="all")
    logits = {"audio": torch.tensor([[9.0, 0.0]]), "visual": torch.tensor([[0.0, 9.0]])}
    part.start_epoch()
    record = epoch(parts, sgd(parts, lr=0.1), edit=lambda _: part.step(logits, torch.tensor([0])))
    x = part.end_epoch()["alpha"]["audio"] * 0.1 * 30
    assert record["hold"]["audio"] == pytest.approx((1 - math.exp(-x)) / x, rel=0.15) and x > 5
    assert record["hold"]["visual"] == pytest.approx(1, rel=1e-12)


def test_a_frozen_encoder_does_not_move_and_has_no_way_to_go():
    parts = encoders()
    parts["visual"].requires_grad_(False)
    movement = Movement(parts, sgd(parts, lr=0.1))
    movement.start_epoch()
    for p in parts["audio"].parameters():
        p.grad = torch.zeros_like(p)
    movement.update()
    assert movement.end_epoch() == {"distance": {"audio": 0, "visual": 0}, "hold": {"audio": None, "visual": None}}


def test_other_optimizers_have_a_distance_and_no_hold():
    parts = encoders()
    optimizer = torch.optim.AdamW([p for encoder in parts.values() for p in encoder.parameters()], lr=0.1)
    record = epoch(parts, optimizer)
    assert record["distance"]["audio"] > 0 and record["hold"] == {"audio": None, "visual": None}


def test_an_epoch_that_goes_on_from_a_state_ends_as_the_whole_one(tmp_path):
    whole = encoders()
    expected = epoch(whole, sgd(whole, lr=0.1), steps=6)
    parts = encoders()
    optimizer = sgd(parts, lr=0.1)
    for step in range(6):
        movement = Movement(parts, optimizer)
        movement.load_state_dict(torch.load(tmp_path / "state.pt")) if step else movement.start_epoch()
        for name, encoder in parts.items():
            for p in encoder.parameters():
                p.grad = torch.full_like(p, PUSH[name])
        movement.update()
        optimizer.step()
        torch.save(movement.state_dict(), tmp_path / "state.pt")
    assert movement.end_epoch() == expected
