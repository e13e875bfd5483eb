"""MBSD against its terms taken one sample and one pair at a time, and who learns from whom."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, sgd, step

from engine.parser import parse
from methods.joint import Joint
from methods.mbsd import MBSD, VARIANTS, distances, divergences, gaps
from models.multimodal import Output

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, fusion) for fusion in ("concat", "sum", "film", "gated")] + [(THREE, "concat"), (THREE, "sum")]
FLAGS = dict(kl_weight=1.0, match_weight=1.0, pairs="all", readout="split")


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", variant="paper", **flags):
        method = MBSD(make_args(**FLAGS | VARIANTS[variant] | flags), tiny_model(modalities, fusion))
        method.model.double()
        return method

    return make


def spread(model):
    """Heads by which some samples are right in one modality, some in another."""
    with torch.no_grad():
        for p in model.fusion.parameters():
            p.add_(torch.randn_like(p))


def slow(unimodal, target, pairs="all", moved="pupil", average="batch", features=None):
    """The two terms, one sample and one ordered pair of modalities at a time."""
    p = {name: z.softmax(1) for name, z in unimodal.items()}
    kl = match = 0
    for s, w in itertools.permutations(p, 2):
        kls, matches = [], []
        for i, y in enumerate(target.tolist()):
            right = {name: int(p[name][i].argmax()) == y for name in p}
            surest = max((p[name][i, y].item() for name in p if right[name]), default=None)
            teaches = right[s] and p[s][i, y] > p[w][i, y] and (pairs == "all" or p[s][i, y].item() == surest)
            if not teaches:
                continue
            gap = (p[s][i, y] - p[w][i, y]).item()
            teacher, pupil = p[s][i].detach(), p[w][i]
            kls.append(gap * sum(q * (q / r).log() for q, r in zip(teacher, pupil, strict=True)))
            one, other = (features or unimodal)[s][i], (features or unimodal)[w][i]
            one = one if moved == "both" else one.detach()
            matches.append(gap * sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))
        by = len(target) if average == "batch" else max(len(kls), 1)
        kl, match = kl + sum(kls) / by, match + sum(matches) / by
    return kl, match


CASES = [dict(), dict(pairs="best", kl_weight=0.3, match_weight=2.0), dict(moved="both", average="taught")]


@pytest.mark.parametrize("flags", CASES, ids=("all", "best", "both"))
@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_loss_and_gradients_are_those_of_single_samples_and_pairs(make, tiny_batch, modalities, fusion, flags):
    torch.manual_seed(1)
    method, batch = make(modalities, fusion, **flags), tiny_batch(modalities, size=9)
    spread(method.model)
    literal = copy.deepcopy(method.model).train()
    features = literal.encode(batch.inputs)
    unimodal = literal.unimodal(features)
    rules = {key: value for key, value in flags.items() if not key.endswith("weight")}
    kl, match = slow(unimodal, batch.target, **rules)
    expected = F.cross_entropy(literal.fuse(features), batch.target)
    expected = expected + sum(F.cross_entropy(z, batch.target) for z in unimodal.values())
    expected = expected + flags.get("kl_weight", 1) * kl + flags.get("match_weight", 1) * match
    expected.backward()
    _, losses = step(method, batch)
    assert losses["loss_kl"] > 0 and losses["loss_match"] > 0  # otherwise nobody has taught
    torch.testing.assert_close(losses["loss"], expected)
    assert_same_gradients(gradients(method.model), gradients(literal))


@pytest.mark.parametrize("readout", ["split", "heads"])
def test_without_weights_it_is_joint_training_with_unimodal_losses_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train, readout
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    torch.manual_seed(0)
    neutral = make(kl_weight=0.0, match_weight=0.0, readout=readout)
    joint = Joint(make_args(unimodal_loss=readout), copy.deepcopy(neutral.model))
    joint.model.load_state_dict(neutral.model.state_dict())
    for method in (neutral, joint):
        train(method, sgd(method.model.double()), epochs)
    states = neutral.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def said(*probabilities):
    """log p (M, 1, 2) of modalities that give class 0 these probabilities."""
    return torch.tensor([[[p, 1 - p]] for p in probabilities], dtype=torch.float64).log()


def who_teaches(*probabilities, best=False):
    """{(teacher, pupil): gap} on a sample of class 0."""
    found = gaps(said(*probabilities), torch.tensor([0]), best)[:, :, 0]
    return {(int(s), int(w)): round(found[s, w].item(), 6) for s, w in found.nonzero()}


def test_who_teaches_whom():
    assert who_teaches(0.9, 0.2) == {(0, 1): 0.7}
    assert who_teaches(0.9, 0.6) == {(0, 1): 0.3}  # both right: the surer
    assert who_teaches(0.4, 0.2) == {}  # the surer is wrong
    assert who_teaches(0.7, 0.7) == {}
    assert who_teaches(0.9, 0.7, 0.2) == {(0, 1): 0.2, (0, 2): 0.7, (1, 2): 0.5}
    assert who_teaches(0.9, 0.7, 0.2, best=True) == {(0, 1): 0.2, (0, 2): 0.7}
    # With three classes the right one may be less sure of the class than the wrong one: then nobody teaches.
    log_p = torch.tensor([[[0.38, 0.31, 0.31]], [[0.45, 0.55, 0.0]]]).clamp(min=1e-9).log()
    assert not gaps(log_p, torch.tensor([0])).any()


def test_terms_by_hand(make):
    method = make()
    logits = {"audio": [[math.log(9), 0.0]], "visual": [[math.log(1 / 4), 0.0]]}  # 0.9 and 0.2 of class 0
    unimodal = {name: torch.tensor(z, dtype=torch.float64) for name, z in logits.items()}
    output = Output(sum(unimodal.values()), unimodal, unimodal, torch.tensor([0]))
    losses = method.losses(output)
    assert losses["loss_kl"].item() == pytest.approx(0.7 * (0.9 * math.log(4.5) + 0.1 * math.log(0.1 / 0.8)))
    assert losses["loss_match"].item() == pytest.approx(0.7 * math.log(36) ** 2 / 2)


def test_it_is_the_public_codes_bernoulli_divergence_and_rule_for_two_classes():
    draws = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(2, 500, dtype=torch.float64, generator=draws)
    y = torch.randint(2, (500,), generator=draws)
    log_p = torch.stack([torch.zeros_like(x), x], dim=2).log_softmax(dim=2)
    p = x.sigmoid()
    bernoulli = p[0] * (p[0] / p[1]).log() + (1 - p[0]) * ((1 - p[0]) / (1 - p[1])).log()
    torch.testing.assert_close(divergences(log_p)[0, 1], bernoulli)
    teaches = ((y - p[0]).abs() < 0.5) & ((y - p[0]) * (p[0] - p[1]) > 0)
    gap = gaps(log_p, y)[0, 1]
    assert torch.equal(gap > 0, teaches)
    torch.testing.assert_close(gap, (p[0] - p[1]).abs() * teaches)


def test_the_teacher_and_the_weights_are_constants_and_the_pupil_gets_surer(make):
    """One descent step on the terms alone."""
    method = make(THREE)
    z = 2 * torch.randn(3, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    target = torch.arange(40) % 3
    output = Output(z.sum(dim=0), dict(zip(THREE, z, strict=True)), {}, target)
    losses = method.losses(output)
    (pull,) = torch.autograd.grad(losses["loss_kl"], z, retain_graph=True)
    (match,) = torch.autograd.grad(losses["loss_match"], z)
    pupils = (method._gap > 0).any(dim=0)
    assert 0 < pupils.sum() < pupils.numel()
    for grad in (pull, match):
        assert torch.equal(grad.abs().sum(dim=2) > 0, pupils)  # those who teach only, or neither, stay
    true = [x.softmax(2).gather(2, target.expand(3, -1).unsqueeze(2))[pupils] for x in (z, z - 0.01 * pull)]
    assert (true[1] > true[0]).all()


def test_no_term_is_negative_and_agreement_is_none(make):
    z = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_p = z.log_softmax(2)
    assert (divergences(log_p) > -1e-15).all() and (distances(z, False) >= 0).all()
    alike = z[:1].expand(3, -1, -1)
    assert not gaps(alike.log_softmax(2), torch.arange(50) % 4).any()
    assert not divergences(alike.log_softmax(2)).any() and not distances(alike, False).any()
    torch.testing.assert_close(distances(3 * z, False), 9 * distances(z, False))


def test_order_does_not_matter_and_a_copy_counts_by_its_pairs(make):
    z = torch.randn(3, 30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    target = torch.arange(30) % 3

    def terms(*logits):
        method, names = make(THREE[: len(logits)]), THREE[: len(logits)]
        losses = method.losses(Output(sum(logits), dict(zip(names, logits, strict=True)), {}, target))
        return torch.stack([losses["loss_kl"], losses["loss_match"]])

    torch.testing.assert_close(terms(z[0], z[1], z[2]), terms(z[2], z[0], z[1]))
    torch.testing.assert_close(terms(z[0], z[1], z[1]), 2 * terms(z[0], z[1]))


def test_the_record_counts_pupils_and_teachers(make):
    z = torch.stack([said(0.9, 0.4), said(0.6, 0.7), said(0.2, 0.1)]).squeeze(2)  # (3 samples, 2 modalities, 2)
    unimodal = {"audio": z[:, 0], "visual": z[:, 1]}
    method = make()
    method.losses(Output(z.sum(dim=1), unimodal, {}, torch.zeros(3, dtype=torch.long)))
    method.trace.update = lambda: None
    method.after_backward(None)
    found = {column: method._notes[column][0].tolist() for column in ("taught", "teaches")}
    assert found["taught"] == pytest.approx([1 / 3, 1 / 3]) and found["teaches"] == pytest.approx([1 / 3, 1 / 3])


def test_features_are_compared_where_they_have_one_width(make, tiny_batch):
    with pytest.raises(ValueError, match="^--match features needs features of one width, not audio 2, visual 3: use"):
        make(variant="official")
    method = make()
    vars(method.args).update(VARIANTS["official"])
    torch.manual_seed(0)
    features = {name: torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for name in TWO}
    unimodal = {name: 2 * torch.randn(6, 3, dtype=torch.float64) for name in TWO}
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = method.losses(Output(sum(unimodal.values()), unimodal, features, target))
    _, expected = slow(unimodal, target, moved="both", average="taught", features=features)
    assert expected > 0
    torch.testing.assert_close(losses["loss_match"], expected)
    grads = torch.autograd.grad(losses["loss_match"], list(features.values()))
    torch.testing.assert_close(grads[0], -grads[1])  # both move, toward each other


def test_terms_are_in_full_precision_under_autocast(make, tiny_batch):
    method, batch = make(fusion="sum"), tiny_batch()
    method.model.float()
    batch.inputs.update({name: x.float() for name, x in batch.inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        output = method.forward(batch)
        losses = method.losses(output)
    assert output.unimodal["audio"].dtype == torch.bfloat16
    kl, match = slow({name: z.double() for name, z in output.unimodal.items()}, output.target)
    torch.testing.assert_close(losses["loss_kl"].double(), torch.as_tensor(kl).double(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(losses["loss_match"].double(), torch.as_tensor(match).double(), rtol=1e-4, atol=1e-7)


def test_one_modality_is_refused(make):
    with pytest.raises(ValueError, match="^MBSD weighs modalities against each other: it needs two or more$"):
        make(("audio",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant):
    args = vars(parse(["--method", "mbsd", "--variant", variant]))
    assert VARIANTS[variant].items() <= args.items() and FLAGS.items() <= args.items()
