"""MMPareto against hand-computed numbers, against a literal computation by autograd, and by what it promises."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, step

from engine.parser import parse
from methods.joint import Joint
from methods.mmpareto import MMPareto, joint_weight, pareto

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")


@pytest.fixture
def make(tiny_model, make_args):
    """make(gamma, modalities, fusion, seed): the method on a tiny model in double precision."""

    def make(gamma=1.5, modalities=TWO, fusion="concat", seed=0):
        method = MMPareto(make_args(gamma=gamma), tiny_model(modalities, fusion, seed))
        method.model.double()
        return method

    return make


def tensors(*values):
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)


def drawn(seed, shapes=((3, 2), (4,), ())):
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes)


def flat(grads):
    return torch.cat([grad.flatten() for grad in grads])


def conflicting(seed):
    """Gradients of two losses, the second turned against the first."""
    joint, noise = drawn(seed), drawn(seed + 100)
    own = tuple(0.3 * n - 0.8 * g for n, g in zip(noise, joint, strict=True))
    assert flat(joint) @ flat(own) < 0
    return joint, own


def test_a_conflict_by_hand():
    # <g, u> = -2, |g|^2 = 4, |u|^2 = 2: c = (2 + 2) / (4 + 2 + 4), h = 2 (0.4 g + 0.6 u) = (0.4, 1.2), g + u = (1, 1).
    joint, own = tensors([2.0, 0.0]), tensors([-1.0, 1.0])
    assert joint_weight(joint, own).item() == pytest.approx(0.4, rel=1e-12)
    (grad,), weight = pareto(joint, own, gamma=1.5)
    length = 1.5 * math.sqrt(2) / math.hypot(0.4, 1.2)
    assert weight.item() == pytest.approx(0.4) and grad.tolist() == pytest.approx([0.4 * length, 1.2 * length])


def test_orthogonal_gradients_take_the_shortest_combination():
    assert joint_weight(tensors([1.0, 0.0]), tensors([0.0, 2.0])).item() == pytest.approx(0.8, rel=1e-12)


def test_each_tensor_is_restored_by_itself_while_the_weights_are_the_encoders():
    # The first tensors agree, the second ones conflict more: one c for both.
    joint, own = tensors([1.0], [3.0, 0.0]), tensors([1.0], [-1.0, 1.0])
    weight = (3 + 2) / (10 + 3 + 4)
    assert joint_weight(joint, own).item() == pytest.approx(weight, rel=1e-12)
    first, second = pareto(joint, own, gamma=1.0)[0]
    assert first.item() == pytest.approx(2.0)  # h is 2 c + 2 (1 - c), as long as the sum
    h = [2 * (3 * weight - (1 - weight)), 2 * (1 - weight)]
    length = max(1.0, math.sqrt(5) / math.hypot(*h))
    assert length > 1 and second.tolist() == pytest.approx([x * length for x in h])


def test_a_longer_direction_is_not_shortened():
    # One tensor of an encoder whose conflict is decided elsewhere: h is longer than the sum there.
    joint, own = tensors([1.0], [0.0, 4.0]), tensors([-0.9], [0.0, -1.0])
    weight = joint_weight(joint, own)
    h = (2 * weight * joint[0] + 2 * (1 - weight) * own[0]).item()
    assert abs(h) > 0.1 + 1e-3
    assert pareto(joint, own, gamma=1.0)[0][0].item() == pytest.approx(h, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_those_of_the_least_norm_and_the_direction_lowers_both(seed):
    joint, own = conflicting(seed)
    g, u, c = flat(joint), flat(own), joint_weight(joint, own)
    assert 0 < c < 1
    h = c * g + (1 - c) * u
    assert all(h.norm() <= (t * g + (1 - t) * u).norm() + 1e-12 for t in torch.linspace(0, 1, 101).double())
    assert h @ g > 0 and h @ u > 0
    # The least norm lies at the same angle to both: its inner products are alike.
    torch.testing.assert_close(h @ g, h @ u, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_tensor_is_shorter_than_the_plain_sum(seed):
    joint, own = conflicting(seed)
    for grad, g, u in zip(pareto(joint, own, gamma=1.0)[0], joint, own, strict=True):
        assert grad.norm() >= (g + u).norm() * (1 - 1e-12)
    for one, other in zip(pareto(joint, own, 1.5)[0], pareto(joint, own, 1.0)[0], strict=True):
        torch.testing.assert_close(one, 1.5 * other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_without_a_conflict_it_is_exactly_gamma_times_the_sum(gamma):
    joint = drawn(0)
    own = tuple(g + 0.1 * n for g, n in zip(joint, drawn(1), strict=True))
    grads, weight = pareto(joint, own, gamma)
    assert weight == 0.5
    assert all(torch.equal(grad, gamma * (g + u)) for grad, g, u in zip(grads, joint, own, strict=True))


@pytest.mark.parametrize(
    "joint, own, expected",
    [
        (([0.0, 0.0], [0.0]), ([1.0, 2.0], [3.0]), ([1.5, 3.0], [4.5])),
        (([1.0, 2.0], [3.0]), ([0.0, 0.0], [0.0]), ([1.5, 3.0], [4.5])),
        (([0.0], [0.0]), ([0.0], [0.0]), ([0.0], [0.0])),
        (([1.0], [0.0]), ([1.0], [0.0]), ([3.0], [0.0])),
        (([2.0], [0.0]), ([-1.0], [0.0]), ([0.0], [0.0])),  # opposite: the shortest combination is nothing
    ],
)
def test_zero_norms_give_finite_gradients(joint, own, expected):
    grads, _ = pareto(tensors(*joint), tensors(*own), gamma=1.5)
    assert [grad.tolist() for grad in grads] == [pytest.approx(values, abs=1e-12) for values in expected]


def literal_gradients(model, batch, gamma):
    """One loss at a time by plain backward passes, then the rules in numbers; also who was in conflict."""
    features = model.encode(batch.inputs)
    losses = {"joint": F.cross_entropy(model.fuse(features), batch.target)}
    losses |= {name: F.cross_entropy(model.heads[name](features[name]), batch.target) for name in features}
    held = {}
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        held[name] = gradients(model)
    model.zero_grad()
    sum(losses.values()).backward()
    expected, conflicts = gradients(model), {}
    for name in model.modalities:
        keys = [key for key in expected if key.startswith(f"encoders.{name}.")]
        g, u = ([held[loss][key] for key in keys] for loss in ("joint", name))
        dot, gg, uu = ((flat(a) @ flat(b)).item() for a, b in ((g, u), (g, g), (u, u)))
        conflicts[name] = dot <= 0
        c = (uu - dot) / (gg + uu - 2 * dot) if conflicts[name] else 0.5
        for key, one, other in zip(keys, g, u, strict=True):
            h = 2 * c * one + 2 * (1 - c) * other
            ratio = ((one + other).norm() / h.norm()).item() if h.norm() > 0 else 1
            expected[key] = gamma * max(1, ratio) * h
    return expected, conflicts


@pytest.mark.parametrize(
    "modalities, fusion", [(TWO, f) for f in ("concat", "sum", "film", "gated")] + [(THREE, "sum")]
)
def test_gradients_are_those_of_the_rules_taken_one_loss_at_a_time(make, tiny_batch, modalities, fusion):
    seen = set()
    for seed in range(8):
        method, batch = make(modalities=modalities, fusion=fusion, seed=seed), tiny_batch(modalities, seed=seed)
        expected, conflicts = literal_gradients(copy.deepcopy(method.model).train(), batch, gamma=1.5)
        step(method, batch)
        assert_same_gradients(gradients(method.model), expected)
        assert method.on_epoch_end(None)["conflict"] == {name: float(found) for name, found in conflicts.items()}
        seen |= set(conflicts.values())
    assert seen == {True, False}  # otherwise half of the rules were not met


def test_without_a_conflict_and_with_gamma_one_it_is_joint_training_with_heads(make, tiny_model, make_args, tiny_batch):
    method = make(gamma=1.0)
    with torch.no_grad():  # heads that say what the fusion says: their gradients cannot disagree
        blocks = method.model.fusion.head.weight.split(method.model.fusion.dims, dim=1)
        for head, block in zip(method.model.heads.values(), blocks, strict=True):
            head.weight.copy_(block)
    joint = Joint(make_args(unimodal_loss="heads"), tiny_model())
    joint.model.double().load_state_dict(method.model.state_dict())
    _, losses = step(method, tiny_batch())
    _, joint_losses = step(joint, tiny_batch())
    assert method.on_epoch_end(None)["conflict"] == {"audio": 0, "visual": 0}
    assert losses.keys() == joint_losses.keys()
    assert all(torch.equal(losses[name], joint_losses[name]) for name in losses)
    # Two passes add up in another order than one does.
    assert_same_gradients(gradients(method.model), gradients(joint.model), rtol=1e-10, atol=1e-14)


def test_the_trace_is_of_the_gradient_that_is_trained(make, tiny_batch):
    method = make()
    step(method, tiny_batch())
    held = gradients(method.model)
    expected = {
        name: sum(g.square().sum().item() for key, g in held.items() if key.startswith(f"encoders.{name}."))
        for name in TWO
    }
    assert method.on_epoch_end(None)["fisher_trace"] == pytest.approx(expected, rel=1e-12)


def test_a_frozen_encoder_is_left_alone(make, tiny_batch):
    method, free = make(), make()
    method.model.encoders["audio"].requires_grad_(False)
    step(method, tiny_batch())
    step(free, tiny_batch())
    found, expected = gradients(method.model), gradients(free.model)
    for name, grad in found.items():
        assert grad is None if name.startswith("encoders.audio.") else torch.equal(grad, expected[name])


def test_default():
    assert parse(["--method", "mmpareto"]).gamma == 1.5
