"""LFM against similarities taken one pair at a time, and what its weight does from epoch to epoch."""

import copy
import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import EPOCHS, WITHHELD, epoch_of
from helpers.resuming import assert_resumes_after_every_step
from helpers.steps import assert_same_gradients, gradients, host_reads, one_step, same_state, sgd, step

from engine.parser import parse
from methods.joint import Joint
from methods.lfm import LFM, VARIANTS, divergence, fitted, infonce
from models.fusion import FUSIONS
from models.multimodal import Output

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
FLAGS = dict(alpha_schedule="constant", alpha=0.3, alpha_lr=0.01, temperature=0.5, projection=None, held_out=0.1)
SETTINGS = [(TWO, fusion) for fusion in FUSIONS] + [(THREE, "concat"), (THREE, "sum"), (THREE, "shared")]
ALIGNMENTS = ("infonce", "js", "official")


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, fusion, **flags): the method on a tiny model, whose features are mapped to 4 numbers."""

    def make(modalities=TWO, fusion="concat", alignment="infonce", **flags):
        projection = 4 if alignment == "infonce" else None
        args = make_args(**FLAGS | dict(alignment=alignment, projection=projection) | flags)
        method = LFM(args, tiny_model(modalities, fusion))
        method.model.double()
        return method

    return make


def slow_infonce(a, b, temperature):
    """One sample against one other at a time."""
    count, total = len(a), 0
    s = [[(x @ y) / (x.norm() * y.norm()) / temperature for y in b] for x in a]
    for i in range(count):
        rows = torch.stack([s[i][k] for k in range(count)])
        columns = torch.stack([s[k][i] for k in range(count)])
        total = total + (rows.exp().sum().log() - rows[i]) + (columns.exp().sum().log() - columns[i])
    return total / (2 * count)


def slow_divergence(z, other, swapped):
    """By torch's own KL, one sample at a time."""
    total = 0
    for p, q in zip(z.softmax(1), other.softmax(1), strict=True):
        m = (p + q) / 2
        pairs = [(m, p), (m, q)] if swapped else [(p, m), (q, m)]
        total = total + sum((x * (x / y).log()).sum() for x, y in pairs) / 2
    return total / len(z)


def literal_loss(model, batch, alignment, alpha, temperature):
    features = model.encode(batch.inputs)
    if alignment == "infonce":
        seen = [model.projections[name](f) for name, f in features.items()]
        terms = [slow_infonce(a, b, temperature) for a, b in combinations(seen, 2)]
    else:
        seen = list(model.unimodal(features).values())
        terms = [slow_divergence(a, b, alignment == "official") for a, b in combinations(seen, 2)]
    return (1 - alpha) * F.cross_entropy(model.fuse(features), batch.target) + alpha * sum(terms) / len(terms)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_loss_and_gradients_are_those_of_single_samples(make, tiny_batch, modalities, fusion, alignment):
    method, batch = make(modalities, fusion, alignment), tiny_batch(modalities)
    literal = copy.deepcopy(method.model).train()
    expected = literal_loss(literal, batch, alignment, 0.3, 0.5)
    expected.backward()
    output, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["loss_joint"], F.cross_entropy(output.logits, output.target))
    torch.testing.assert_close(losses["loss"], 0.7 * losses["loss_joint"] + 0.3 * losses["loss_matching"])
    assert_same_gradients(gradients(method.model), gradients(literal))


def test_features_of_one_width_are_compared_as_they_are(make, tiny_batch):
    method, batch = make(fusion="shared", projection=None), tiny_batch()
    output, losses = step(method, batch)
    torch.testing.assert_close(losses["loss_matching"], slow_infonce(*output.features.values(), 0.5))
    assert not hasattr(method.model, "projections")


@pytest.mark.parametrize("unimodal_loss", ["none", "split"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_without_a_weight_it_is_joint_training_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train, alignment, unimodal_loss
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    neutral = make(alignment=alignment, alpha=0.0, unimodal_loss=unimodal_loss)
    joint = Joint(make_args(unimodal_loss=unimodal_loss), tiny_model())
    records = [train(method, sgd(method.model), epochs) for method in (neutral, joint)]
    found, expected = neutral.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert records[0][-1]["fisher_trace"] == records[1][-1]["fisher_trace"]


def test_without_a_weight_the_term_is_skipped_and_not_multiplied_by_zero(make, tiny_batch, monkeypatch):
    method = make(alpha=0.0)
    monkeypatch.setattr(method, "matching", lambda output: output.logits.sum() / 0)
    _, losses = step(method, tiny_batch())
    assert losses["loss_matching"].isinf() and losses["loss"] == losses["loss_joint"]
    assert all(grad.isfinite().all() for grad in gradients(method.model).values() if grad is not None)


def test_with_the_whole_weight_no_head_learns(make, tiny_batch):
    found = one_step(make(alpha=1.0), tiny_batch())
    assert not any(grad.any() for name, grad in found.items() if name.startswith("fusion."))
    assert all(grad.any() for name, grad in found.items() if name.startswith("encoders.") and "weight" in name)


# The losses that match


def draw(count=6, dim=5, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(count, dim, dtype=torch.float64, generator=draws) for _ in range(2)]


def matched(method, a, b, target=None):
    """L_MM of these features, without a projection."""
    return method.matching(Output(None, {}, {"audio": a, "visual": b}, target))


def test_infonce_by_hand():
    """Two samples, cosines 1 on the diagonal and 0 beside it."""
    eye = torch.eye(2, dtype=torch.float64)
    assert infonce(eye, eye, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    swapped = eye.flip(0)
    assert infonce(eye, swapped, 0.5).item() == pytest.approx(math.log(1 + math.exp(2)))


def test_infonce_of_constant_features_is_log_n_and_of_one_sample_zero(make):
    method = make(fusion="shared", projection=None)
    ones = torch.ones(6, 3, dtype=torch.float64)
    assert matched(method, ones, 3 * ones).item() == pytest.approx(math.log(6))
    a, b = draw(count=1, dim=3)
    assert matched(method, a, b) == 0


def test_infonce_knows_directions_and_neither_sizes_nor_the_order(make):
    method = make(fusion="shared", projection=None)
    a, b = (x.requires_grad_() for x in draw(dim=3))
    value = matched(method, a, b)
    value.backward()
    for x in (a, b):
        assert x.grad.abs().max() > 1e-3 and (x.grad * x).sum(dim=1).abs().max() < 1e-14
    sizes, order = torch.logspace(-3, 3, 6, dtype=torch.float64).unsqueeze(1), torch.randperm(6)
    with torch.no_grad():
        for other in ((b, a), (sizes * a, b), (a, sizes * b), (a[order], b[order])):
            torch.testing.assert_close(matched(method, *other), value.detach())
        assert not torch.allclose(matched(method, a[order.roll(1)], b[order]), value)


def test_the_divergence_is_bounded_and_the_public_codes_is_not():
    a, b = draw()
    for far, official in ((10, 4.31), (100, 49.3), (1e4, 4999.3)):
        log_p, log_q = ((far * torch.eye(2, dtype=torch.float64)[[k]]).log_softmax(dim=1) for k in (0, 1))
        assert divergence(log_p, log_q).item() == pytest.approx(math.log(2), rel=1e-3)
        assert divergence(log_p, log_q, swapped=True).item() == pytest.approx(official, rel=1e-3)
    log_p, log_q = a.log_softmax(dim=1), b.log_softmax(dim=1)
    assert 0 < divergence(log_p, log_q) < math.log(2) and divergence(log_p, log_q, True) > 0
    for swapped in (False, True):
        assert divergence(log_p, log_p, swapped).abs() < 1e-15  # they agree where p = q
        torch.testing.assert_close(divergence(log_q, log_p, swapped), divergence(log_p, log_q, swapped))
        shifted = (a + 7).log_softmax(dim=1)
        torch.testing.assert_close(divergence(shifted, log_q, swapped), divergence(log_p, log_q, swapped))
    assert not torch.allclose(divergence(log_p, log_q), divergence(log_p, log_q, True))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_logits_have_finite_divergences_and_gradients(swapped, dtype):
    logits = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]], dtype=dtype)
    z, other = logits.requires_grad_(), logits.detach().flip(0)
    value = divergence(z.log_softmax(dim=1), other.log_softmax(dim=1), swapped)
    (grad,) = torch.autograd.grad(value, z)
    assert value.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_autocast_changes_nothing_of_what_is_compared(make, alignment):
    method = make(fusion="shared", alignment=alignment, projection=None, temperature=0.01)
    a, b = (x.bfloat16() for x in draw(dim=3))
    output = Output(None, {"audio": a, "visual": b}, {"audio": a, "visual": b}, None)
    expected = method.matching(output)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.matching(output)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    a, b = a.float(), b.float()
    output = Output(None, {"audio": a, "visual": b}, {"audio": a, "visual": b}, None)
    assert torch.equal(method.matching(output), expected)


# The weight


def at_epoch(method, epoch, run=None):
    """The weight of `epoch`, before whose first step the method has been told that it begins."""
    history = {name: [1.0] * epoch for name in method.model.modalities}
    method.load_state_dict(method.state_dict() | {"trace": {"history": history}})
    method.on_epoch_start(run)
    return method.alpha


def test_the_heuristic_weight_by_hand(make):
    method = make(alpha_schedule="heuristic")
    weights = [at_epoch(method, epoch) for epoch in range(100)]
    rounded = {t: round(weights[t - 1], 3) for t in (1, 2, 5, 10, 100)}
    assert rounded == {1: 0.632, 2: 0.393, 5: 0.181, 10: 0.095, 100: 0.010}
    assert all(later < earlier for earlier, later in zip(weights, weights[1:], strict=False))


def test_the_public_codes_weight(make):
    """Its values, but from 0 to 1, and over all epochs however many they are."""
    method = make(alpha_schedule="fitted", epochs=200)
    published = {0: 0.795, 50: 0.563, 100: 0.461, 150: 0.179, 177: 0.0, 183: 0.0, 199: 0.084}
    assert {e: at_epoch(method, e) for e in published} == pytest.approx(published, abs=3e-3)
    assert at_epoch(make(alpha_schedule="fitted", epochs=20), 10) == at_epoch(method, 100)
    weights = [fitted(epoch / 200) for epoch in range(200)]
    assert min(weights) == 0 and max(weights) < 1
    assert "epochs" in method.bound_to(100)
    assert all(make(alpha_schedule=name).bound_to(100) is None for name in ("heuristic", "learned", "constant"))


def test_the_constant_weight_stays(make):
    method = make(alpha=0.4)
    assert [at_epoch(method, epoch) for epoch in (0, 3)] == [0.4, 0.4]


def learning(begin, modalities=TWO, **flags):
    return begin("lfm", modalities, alpha_schedule="learned", held_out=0.17, **flags)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_the_learned_weights_step_is_the_finite_difference(begin, modalities):
    """How the loss of the withheld share changes with alpha after a small step of gradient descent."""
    method, run = learning(begin, modalities)
    epoch_of(method, run, 0)
    run.epoch, seen, real = 1, [], run.loader

    def watch(data, shuffle=True, first=0):
        seen.append(data)
        return real(data, shuffle, first)

    run.loader = watch
    found = method.hypergradient(run)
    withheld, chosen = seen
    assert withheld is run.held_out and chosen.dataset is run.plain
    assert len(chosen) == len(set(chosen.indices)) == WITHHELD

    def mean_loss(model, data, alpha):
        total = 0
        for batch in real(data, shuffle=False):
            literal = literal_loss(model, batch, "infonce", alpha, method.args.temperature)
            total = total + len(batch) / len(data) * literal
        return total

    start, length, gap = copy.deepcopy(run.model).eval(), 1e-5, 0.5
    after = []
    for alpha in (0.5 + gap / 2, 0.5 - gap / 2):
        model = copy.deepcopy(start)
        mean_loss(model, chosen, alpha).backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= length * p.grad
            after.append(mean_loss(model, run.held_out, 0.0).item())
    assert (after[0] - after[1]) / gap / length == pytest.approx(found, rel=1e-3)
    assert abs(found) > 1e-6


def test_the_learned_weight_is_moved_against_its_gradient_and_stays_between_0_and_1(begin, monkeypatch):
    method, run = learning(begin, alpha=0.5, alpha_lr=0.1)
    assert at_epoch(method, 0, run) == 0.5  # nothing has been learned yet
    for slope, expected in ((2.0, 0.3), (-1.0, 0.4), (99.0, 0.0), (-99.0, 1.0)):
        monkeypatch.setattr(method, "hypergradient", lambda run, slope=slope: slope)
        assert at_epoch(method, 1, run) == pytest.approx(expected)


def test_looking_at_the_withheld_share_leaves_the_model_and_its_gradients(begin, tiny_batch):
    method, run = learning(begin)
    step(method, tiny_batch())
    before = copy.deepcopy((run.model.state_dict(), gradients(run.model)))
    assert run.model.training
    method.hypergradient(run)
    assert run.model.training
    assert same_state(run.model.state_dict(), before[0])
    after = gradients(run.model)
    assert all(g is None and after[n] is None or torch.equal(after[n], g) for n, g in before[1].items())


def test_losses_of_single_modalities_are_not_of_the_weight(begin):
    found = []
    for kind in ("none", "split"):
        method, run = learning(begin, unimodal_loss=kind)
        found.append(method.hypergradient(run))
    assert found[0] == found[1]


def test_a_weight_that_is_not_learned_resumes_after_every_step(begin, tmp_path):
    """The learned one does so in test_within.py, as every method by the flags with which it acts."""
    assert_resumes_after_every_step(lambda: begin("lfm", alpha_schedule="heuristic"), tmp_path)


def test_the_weight_is_recorded_and_a_share_is_withheld_only_to_learn_it(begin):
    method, run = learning(begin, alpha_lr=5.0)
    assert method.held_out == 0.17
    records = [epoch_of(method, run, epoch)[1]["matching_weight"] for epoch in range(EPOCHS)]
    assert all(row == dict.fromkeys(TWO, row["audio"]) for row in records)
    weights = [row["audio"] for row in records]
    assert len(set(weights)) > 1 and all(0 <= weight <= 1 for weight in weights)
    assert begin("lfm", alpha_schedule="heuristic")[0].held_out == 0


def test_a_step_reads_nothing_by_any_alignment(make, tiny_batch, monkeypatch):
    for alignment in ALIGNMENTS:
        method, batch = make(alignment=alignment), tiny_batch()
        with monkeypatch.context() as patch:
            reads = host_reads(patch)
            step(method, batch)
            assert reads == []


# What is refused


def test_what_it_is_not_defined_for_is_refused_in_a_sentence(make):
    with pytest.raises(ValueError, match="^LFM weighs modalities against each other: it needs two or more$"):
        make(("audio",))
    with pytest.raises(
        ValueError, match="^LFM compares features of one width, not audio 2, visual 3: use --projection 128$"
    ):
        make(projection=None)
    with pytest.raises(ValueError, match="^--projection is of features, --alignment js of logits: leave one away$"):
        make(alignment="js", projection=4)
    make(alignment="js")  # logits always have one width


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant):
    args = vars(parse(["--method", "lfm", "--variant", variant]))
    assert VARIANTS[variant].items() <= args.items()
    own = parse(["--method", "lfm", "--variant", variant, "--alignment", "js", "--fusion", "concat"])
    assert (own.alignment, own.fusion, own.alpha_schedule) == ("js", "concat", VARIANTS[variant]["alpha_schedule"])
    assert parse(["--method", "lfm"]).fusion == "concat"
