"""AGM against hand-computed numbers, and against gradients multiplied by hooks on whole-model passes."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, sgd, step

from dataset.base import Batch
from engine.parser import parse
from methods.agm import AGM, discrepancy, scores
from methods.joint import Joint
from models.multimodal import build_model

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
GROWING, CONSTANT = [1.0, 2.0], [2.0, 2.0]  # traces after which the next window is open, and closed


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, fusion, seed, **flags): the method on a tiny model, with an alpha that shows."""

    def make(modalities=TWO, fusion="concat", seed=0, **flags):
        flags = dict(alpha=1.5, clip=0.0, padded_statistics="running") | flags
        return AGM(make_args(**flags), tiny_model(modalities, fusion, seed))

    return make


def responses_of(*probabilities):
    """(M, 2, 2) responses that give the true class, 0, these probabilities in two samples."""
    rows = [[[math.log(p), math.log(1 - p)] for p in pair] for pair in probabilities]
    return torch.tensor(rows, dtype=torch.float64)


# Scores: -ln(.4)/2 = .4581454, ln 2 = .6931472, -ln(.1)/2 = 1.1512925; the first and the last differ by ln 2.
EXAMPLE = responses_of((0.8, 0.5), (0.5, 0.5), (0.2, 0.5))
OUTER = responses_of((0.8, 0.5), (0.2, 0.5))
TARGET = torch.zeros(2, dtype=torch.long)


def test_scores_and_discrepancies_by_hand():
    score = scores(EXAMPLE, TARGET)
    assert score.tolist() == pytest.approx([0.4581454, 0.6931472, 1.1512925], abs=1e-6)
    assert discrepancy(score[[0, 2]]).tolist() == pytest.approx([2.0, 0.5])
    expected = [math.exp((0.6931472 + 1.1512925) / 2 - 0.4581454)]
    expected += [math.exp((0.4581454 + 1.1512925) / 2 - 0.6931472), math.exp((0.4581454 + 0.6931472) / 2 - 1.1512925)]
    assert discrepancy(score).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_score_reads_each_samples_own_class_and_is_bounded():
    responses = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]], [[0.0, 1000.0], [0.0, 1000.0]]]).double()
    score = scores(responses, torch.tensor([0, 1]))
    assert score.tolist() == pytest.approx([(math.log(4) - math.log(0.75)) / 2, -math.log(1e-8) / 2])


def test_factors_by_hand(make):
    method = make(alpha=1.5)
    # Before the first step tau is 1; r is 2 and 1/2.
    assert method.factors(OUTER, TARGET).tolist() == pytest.approx([math.exp(1.5 * -1.0), math.exp(1.5 * 0.5)])
    # The reference is that step now, and the same step again is exactly on it.
    assert method.factors(OUTER, TARGET).tolist() == [1.0, 1.0]
    # Swapped: tau still 2 and 1/2, r now 1/2 and 2.
    assert method.factors(OUTER.flip(0), TARGET).tolist() == pytest.approx([math.exp(1.5 * 1.5), math.exp(1.5 * -1.5)])
    # Two of the three steps had audio ahead.
    low, high = 0.4581454, 1.1512925
    expected = [(2 * low + high) / 3, (2 * high + low) / 3]
    assert method.reference.tolist() == pytest.approx(expected, rel=1e-6) and method.steps == 3


def test_the_exponent_is_at_most_ten(make):
    method = make(alpha=0.5)
    method.load_state_dict(method.state_dict() | {"reference": torch.tensor([0.0, 5.0]), "steps": 4})
    kappa = method.factors(OUTER, TARGET).tolist()  # tau is e^5 and e^-5
    assert kappa == pytest.approx([math.exp(0.5 * 10), math.exp(0.5 * (math.exp(-5) - 0.5))])


@pytest.mark.parametrize("modalities", [TWO, THREE])
@pytest.mark.parametrize("clip", [0.0, 1e9])
def test_alpha_zero_is_joint_training_bit_for_bit(make, tiny_model, tiny_batch, make_args, train, modalities, clip):
    epochs = [[tiny_batch(modalities, seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    joint, agm = Joint(make_args(), tiny_model(modalities)), make(modalities, alpha=0.0, clip=clip)
    for method in (joint, agm):
        train(method, sgd(method.model), epochs)
    found, expected = agm.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert agm.trace.history == joint.trace.history


def literal_step(model, batch, alpha, reference, statistics="running"):
    """Whole-model passes with zeroed inputs, responses written out, and a hook on each that multiplies its gradient."""
    names, x, y = model.modalities, batch.inputs, batch.target
    model.train()
    of_batch = model.encode(x)
    full = model.fuse(of_batch)
    model.eval()

    def passed(*shown):
        inputs = {name: x[name] if name in shown else torch.zeros_like(x[name]) for name in names}
        features = model.encode(inputs)
        return model.fuse(features | ({name: of_batch[name] for name in shown} if statistics == "batch" else {}))

    if len(names) == 2:
        a, v = names
        f_a, f_v = passed(a), passed(v)
        phi = [0.5 * (full - f_v + f_a), 0.5 * (full - f_a + f_v)]
    else:
        phi = []
        for m in names:
            j, k = (name for name in names if name != m)
            pairs = passed(m, j) - passed(j) + passed(m, k) - passed(k)
            phi.append((full - passed(j, k)) / 3 + pairs / 6 + passed(m) / 3)
    model.train()
    torch.testing.assert_close(sum(phi), full)
    s = [F.cross_entropy(p, y).item() for p in phi]
    kappas = []
    for m in range(len(names)):
        tau, r = (
            math.exp(sum(values[k] for k in range(len(names)) if k != m) / (len(names) - 1) - values[m])
            for values in (reference, s)
        )
        kappas.append(math.exp(alpha * min(tau - r, 10)))
    model.zero_grad()
    for p, kappa in zip(phi, kappas, strict=True):
        p.register_hook(lambda grad, kappa=kappa: kappa * grad)
    F.cross_entropy(sum(phi), y).backward()
    return kappas


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize(
    "modalities, fusion", [(TWO, f) for f in ("concat", "sum", "film", "gated")] + [(THREE, "concat"), (THREE, "sum")]
)
def test_gradients_are_those_of_hooks_on_whole_passes(make, tiny_batch, modalities, fusion, statistics):
    for seed in range(3):
        method = make(modalities, fusion, seed, padded_statistics=statistics)
        batch = tiny_batch(modalities, seed=seed)
        reference = [0.9, 1.2, 1.0][: len(modalities)]
        method.load_state_dict(
            method.state_dict() | {"reference": torch.tensor(reference, dtype=torch.float64), "steps": 7}
        )
        literal, joint = copy.deepcopy(method.model), copy.deepcopy(method.model).train()
        kappas = literal_step(literal, batch, 1.5, reference, statistics)
        _, losses = step(method, batch)
        assert_same_gradients(gradients(method.model), gradients(literal))
        torch.testing.assert_close(dict(method.model.named_buffers()), dict(literal.named_buffers()))
        # What is minimised is the joint loss to the bit; only its gradient differs.
        loss = F.cross_entropy(joint.fuse(joint.encode(batch.inputs)), batch.target)
        assert torch.equal(losses["loss"], loss)
        found = method.on_epoch_end(None)["kappa"]
        assert list(found.values()) == pytest.approx(kappas, rel=1e-9)
        assert max(abs(kappa - 1) for kappa in kappas) > 0.01


class Linear(nn.Module):
    dim = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, self.dim, bias=False)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_of_linear_encoders_each_gradient_is_multiplied_by_its_own_factor(make_args, modalities):
    draws = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(6, 5, generator=draws, dtype=torch.float64) for name in modalities}
    batch = Batch(inputs, torch.arange(6) % 3, torch.arange(6))
    model = build_model(dict.fromkeys(modalities, Linear), "concat", 3, 0).double()
    joint = Joint(make_args(), copy.deepcopy(model))
    method = AGM(make_args(alpha=1.5, clip=0.0, padded_statistics="running"), model)
    step(method, batch)
    step(joint, batch)
    kappa, plain = method.on_epoch_end(None)["kappa"], gradients(joint.model)
    assert len({round(k, 3) for k in kappa.values()}) == len(modalities)
    expected = {f"encoders.{m}.layer.weight": k * plain[f"encoders.{m}.layer.weight"] for m, k in kappa.items()}
    blocks = plain["fusion.head.weight"].split(4, dim=1)
    expected["fusion.head.weight"] = torch.cat([k * w for k, w in zip(kappa.values(), blocks, strict=True)], dim=1)
    # The bias is in every pass, so it belongs to every modality alike.
    expected["fusion.head.bias"] = sum(kappa.values()) / len(kappa) * plain["fusion.head.bias"]
    assert_same_gradients(gradients(model), expected)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_by_batch_statistics_each_gradient_is_multiplied_by_its_own_factor_but_for_the_zeros(
    make, tiny_model, tiny_batch, make_args, modalities, monkeypatch
):
    """Also with batch norm, where what is made of zeros has no gradient; and no pass of shown modalities is needed."""
    method, batch = make(modalities, padded_statistics="batch"), tiny_batch(modalities)
    joint, encode, passes = Joint(make_args(), tiny_model(modalities)), method.model.encode, []

    def without_gradient_of_zeros(inputs):
        passes.append({len(x) for x in inputs.values()})
        with torch.set_grad_enabled(not any(len(x) == 1 for x in inputs.values())):
            return encode(inputs)

    monkeypatch.setattr(method.model, "encode", without_gradient_of_zeros)
    step(method, batch)
    step(joint, batch)
    assert passes == [{6}, {1}]
    kappa, plain = method.on_epoch_end(None)["kappa"], gradients(joint.model)
    assert all(abs(k - 1) > 0.01 for k in kappa.values())
    expected = {key: kappa[key.split(".")[1]] * grad for key, grad in plain.items() if key.startswith("encoders.")}
    assert_same_gradients({key: p.grad for key, p in method.model.named_parameters() if key in expected}, expected)


def begun(method, history):
    method.load_state_dict(method.state_dict() | {"trace": {"history": history}})
    return method


def test_modulate_during_decides_for_each_modality(make, tiny_batch):
    history = {"audio": GROWING, "visual": CONSTANT}
    modulated = {}
    for during in ("all", "prime", "outside"):
        method = begun(make(modulate_during=during), history)
        step(method, tiny_batch())
        modulated[during] = method.on_epoch_end(None)["kappa"]
    both = modulated["all"]
    assert all(abs(kappa - 1) > 0.01 for kappa in both.values())
    assert modulated["prime"] == {"audio": both["audio"], "visual": 1.0}
    assert modulated["outside"] == {"audio": 1.0, "visual": both["visual"]}


def test_a_closed_window_is_joint_training_while_the_reference_goes_on(make, tiny_model, tiny_batch, make_args, train):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    joint = Joint(make_args(), tiny_model())
    closed = make(modulate_during="prime", threshold=1.0, clip=1e-6)
    for method in (joint, closed):
        train(method, sgd(method.model), epochs)
    expected = joint.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in closed.model.state_dict().items())
    assert closed.steps == 9 and (closed.reference > 0.1).all()


def test_clip(make):
    def clipped(fusion, encoder, clip=1.0, bias=0.0):
        method = make(clip=clip)
        for p in method.model.parameters():
            p.grad = torch.zeros_like(p)
        weights = [method.model.fusion.head.weight, method.model.encoders["audio"].linear.weight]
        for weight, value in zip(weights, (fusion, encoder), strict=True):
            weight.grad[0, 0] = value
        method.model.fusion.head.bias.grad[0] = bias
        method.after_backward(None)
        return [weight.grad[0, 0].item() for weight in weights]

    assert clipped(-3.0, 4.0) == pytest.approx([-0.6, 0.8])  # the norm, 5, becomes 1
    assert clipped(0.9, 40.0, bias=50.0) == [0.9, 40.0]  # only the fusion's weights decide
    assert clipped(-3.0, 4.0, clip=2.0) == pytest.approx([-1.2, 1.6])
    assert clipped(-3.0, 4.0, clip=0.0) == [-3.0, 4.0]


def test_the_trace_is_of_the_modulated_gradient_before_the_clip(make, tiny_batch):
    clipped, free = make(clip=1e-3), make()
    for method in (clipped, free):
        step(method, tiny_batch())
    squares = sum(grad.square().sum() for grad in gradients(clipped.model).values())
    assert squares.sqrt().item() == pytest.approx(1e-3)
    trace = clipped.on_epoch_end(None)["fisher_trace"]
    held = gradients(free.model)
    for name in TWO:
        mine = [grad.square().sum().item() for key, grad in held.items() if key.startswith(f"encoders.{name}.")]
        assert trace[name] == pytest.approx(sum(mine), rel=1e-12)


def test_unimodal_losses_are_not_modulated(make, tiny_model, tiny_batch, make_args):
    batch, heads = tiny_batch(), dict(unimodal_loss="split")
    with_both, modulated = make(**heads), make()
    joint, joint_only = Joint(make_args(**heads), tiny_model()), Joint(make_args(), tiny_model())
    found = []
    for method in (with_both, modulated, joint, joint_only):
        step(method, batch)
        found.append(gradients(method.model))
    own = {name: found[2][name] - found[3][name] for name in found[2]}
    assert_same_gradients(found[0], {name: found[1][name] + own[name] for name in own})


def test_defaults():
    args = parse(["--method", "agm"])
    assert (args.alpha, args.clip, args.modulate_during) == (1.5, 1.0, "all")
    assert args.padded_statistics == "running" and parse(["--method", "agm", "--dataset", "demo"]).alpha == 1.0
