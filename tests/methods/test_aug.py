"""AUG against cross entropies with residual labels, one sample at a time, and who gets a classifier when."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import epoch_of
from helpers.resuming import assert_resumes_after_every_step
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from engine.parser import parse
from engine.setup import make_optimizer
from methods.aug import AUG, VARIANTS
from methods.joint import Joint

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
FLAGS = dict(added="trained", gap="difference", lam=0.5, sigma=1.0, tau=0.01, assign_every=1, max_classifiers=4)


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, used, **flags): the method on a tiny model with so many classifiers of each modality in use."""

    def make(modalities=TWO, used=None, seed=0, **flags):
        method = AUG(make_args(**FLAGS | flags), tiny_model(modalities, "boosted", seed))
        method.model.double()
        for number, count in enumerate(used or ()):
            for _ in range(count - 1):
                method.model.fusion.use_another(number)
        return method

    return make


def optimizer_of(method, name="sgd", **flags):
    args = dict(optimizer=name, lr=0.1, momentum=0.9, weight_decay=0.1, encoder_lr_factor=1.0, modality_lr=None) | flags
    vars(method.args).update(args)
    return make_optimizer(method.args, method.model)


def slow_loss(model, batch, used, lam):
    """From the residual labels as the paper writes them, one sample at a time; its logits by modality."""
    features, head, total, summed = model.encode(batch.inputs), model.fusion.head, 0, {}

    def soft(z, label):
        return -(label * z.log_softmax(0)).sum()

    for name, n in zip(model.modalities, used, strict=True):
        rows = []
        for f, y in zip(features[name], batch.target, strict=True):
            z = [head(layer(f).relu()) for layer in model.fusion.layers[name][:n]]
            label = F.one_hot(y, model.classes).double()
            loss = soft(sum(z), label)
            if n > 1:
                residual = label - lam * label * sum(z[:-1]).detach().softmax(0)
                assert residual.min() >= 0
                loss = loss + soft(sum(z[:-1]), label) + soft(z[-1], residual)
            total = total + loss / len(batch)
            rows.append(sum(z))
        summed[name] = torch.stack(rows)
    return total, summed


@pytest.mark.parametrize(
    "modalities, used", [(TWO, (1, 1)), (TWO, (2, 1)), (TWO, (1, 3)), (THREE, (2, 1, 4)), (("audio",), (3,))]
)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_loss_and_gradients_are_those_of_residual_labels(make, tiny_batch, modalities, used, lam):
    method, batch = make(modalities, used, lam=lam), tiny_batch(modalities)
    literal = copy.deepcopy(method.model).train()
    expected, summed = slow_loss(literal, batch, used, lam)
    expected.backward()
    output, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(sum(losses[f"loss_{name}"] for name in modalities), expected)
    for name, z in summed.items():
        torch.testing.assert_close(output.unimodal[name], z)
    torch.testing.assert_close(output.logits, sum(summed.values()) / len(modalities))
    assert_same_gradients(gradients(method.model), gradients(literal))


def logits(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_the_weight_of_the_residual_by_hand(make):
    """The first member gives the true class 0.4, the second 0.5: the term of the last is 0.8 log 2."""
    first, last = logits([0.4, 0.3, 0.3]), logits([0.5, 0.2, 0.3])
    target, both = torch.tensor([0]), torch.stack([first, last])
    product = [0.4 * 0.5, 0.3 * 0.2, 0.3 * 0.3]
    whole, before = math.log(sum(product) / product[0]), -math.log(0.4)
    assert make().boosted(both, target).item() == pytest.approx(whole + before + 0.8 * math.log(2))
    three = sum(F.cross_entropy(z, target) for z in (first + last, first, last))
    torch.testing.assert_close(make(lam=0.0).boosted(both, target), three)
    assert make().boosted(both[:1], target).item() == pytest.approx(before)


def test_what_the_others_know_is_a_constant_to_the_gradient(make):
    method, target = make(), torch.tensor([0, 2])
    before = logits([0.4, 0.3, 0.3], [0.2, 0.2, 0.6]).requires_grad_()
    last = logits([0.1, 0.1, 0.8], [0.5, 0.2, 0.3])
    (found,) = torch.autograd.grad(method.boosted(torch.stack([before, last]), target), before)
    plain = F.cross_entropy(before + last, target) + F.cross_entropy(before, target)
    torch.testing.assert_close(found, torch.autograd.grad(plain, before)[0])


def test_with_one_classifier_each_it_is_the_sum_of_unimodal_losses_bit_for_bit(make, tiny_batch):
    for modalities in (TWO, THREE):
        method, batch = make(modalities, max_classifiers=1), tiny_batch(modalities)
        plain = copy.deepcopy(method.model).train()
        sum(F.cross_entropy(z, batch.target) for z in plain.unimodal(plain.encode(batch.inputs)).values()).backward()
        assert_same_gradients(one_step(method, batch), gradients(plain), rtol=0, atol=0)


def test_one_modality_is_joint_training_of_it_bit_for_bit(make, tiny_model, tiny_batch, make_args, train):
    epochs = [[tiny_batch(("audio",), seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    method, joint = make(("audio",), tau=0.0, sigma=0.0), Joint(make_args(), tiny_model(("audio",), "boosted"))
    for one in (method, joint):
        train(one, sgd(one.model), epochs)
    found, expected = method.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert method.model.fusion.used == [1]  # there is no one to lag behind


# The classifiers


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("added", ["trained", "random"])
def test_only_what_is_in_use_moves(make, tiny_batch, added, optimizer):
    """In spite of the weight decay, and of the momentum; an added classifier moves as soon as it is in use."""
    method = make(used=(1, 2), added=added)
    layers, trained = method.model.fusion.layers, optimizer_of(method, optimizer)
    start = copy.deepcopy(layers.state_dict())

    def moved(steps=2):
        for seed in range(steps):
            step(method, tiny_batch(seed=seed))
            trained.step()
        return {name for name, value in layers.state_dict().items() if not torch.equal(value, start[name])}

    own = {"audio.0.weight", "audio.0.bias", "visual.0.weight", "visual.0.bias"}
    second = {"visual.1.weight", "visual.1.bias"} if added == "trained" else set()
    assert moved() == own | second
    method.model.fusion.use_another(0)
    third = {"audio.1.weight", "audio.1.bias"} if added == "trained" else set()
    assert moved() == own | second | third
    held = {id(p) for group in trained.param_groups for p in group["params"]}
    assert all((id(p) in held) == p.requires_grad for p in method.model.parameters())
    assert all(p.requires_grad == (added == "trained") for p in layers["audio"][1:].parameters())


def test_encoders_learn_through_classifiers_that_do_not(make, tiny_batch):
    alone, random = (one_step(make(used=used, added="random"), tiny_batch()) for used in ((1, 1), (2, 1)))
    name = "encoders.audio.linear.weight"
    assert not torch.allclose(alone[name], random[name])
    torch.testing.assert_close(alone["encoders.visual.linear.weight"], random["encoders.visual.linear.weight"])


def test_a_classifier_in_reserve_changes_nothing(make, tiny_batch):
    few, many = make(used=(2, 1), max_classifiers=2), make(used=(2, 1), max_classifiers=9)
    many.model.load_state_dict(few.model.state_dict() | {
        name: value for name, value in many.model.state_dict().items() if name not in few.model.state_dict()
    })  # fmt: skip
    found, expected = one_step(many, tiny_batch()), one_step(few, tiny_batch())
    assert_same_gradients({name: found[name] for name in expected}, expected, rtol=0, atol=0)
    assert {name for name, grad in found.items() if grad is None} == found.keys() - expected.keys() | {
        f"fusion.layers.visual.1.{part}" for part in ("weight", "bias")
    }


def test_weights_alone_say_how_many_classifiers_there_are(make, tiny_batch):
    """A best.pt is evaluated as it was, also one from before an addition by a method that is beyond it."""
    method, batch, kept = make(), tiny_batch(), []
    for number in (None, 1, 1, 0):
        if number is not None:
            method.model.fusion.use_another(number)
        method.model.eval()
        with torch.no_grad():
            kept.append((copy.deepcopy(method.model.state_dict()), method.forward(batch).logits))
    assert len({tuple(z.flatten().tolist()) for _, z in kept}) == 4
    later = make(seed=1)
    for state, expected in reversed(kept):
        later.model.load_state_dict(state)
        later.model.eval()
        with torch.no_grad():
            assert torch.equal(later.forward(batch).logits, expected)
    assert later.model.fusion.used == [1, 1] and later.model.fusion.count.tolist() == [1, 1]
    assert copy.deepcopy(method.model).fusion.used == [2, 3]


# Who gets one


@pytest.mark.parametrize(
    "scores, flags, expected",
    [
        ([0.5, 0.3], {}, 1),
        ([0.3, 0.5], {}, 0),
        ([0.5, 0.495], {}, None),  # within tau
        ([0.5, 0.5], dict(tau=0.0), None),
        ([0.5, 0.4999], dict(tau=0.0), 1),
        ([0.5, 0.4], dict(sigma=1.2), 1),
        ([0.5, 0.4], dict(sigma=1.25), None),
        ([0.5, 0.2, 0.4], {}, 1),
        ([0.5, 0.4, 0.2], {}, 2),
        ([0.104, 0.1], {}, None),
        ([0.104, 0.1], dict(gap="ratio"), 1),  # 1.04 times
        ([0.502, 0.5], dict(gap="ratio"), None),
        ([0.5, 0.0], dict(gap="ratio"), 1),
        ([0.9], dict(sigma=0.0, tau=0.0), None),
    ],
)
def test_the_weakest_modality_gets_one_where_the_gap_is_wide(make, scores, flags, expected):
    method = make(THREE[: len(scores)], **flags)
    assert method.lagging(scores) == expected
    if expected is not None:
        while method.model.fusion.used[expected] < 4:
            method.model.fusion.use_another(expected)
        assert method.lagging(scores) is None  # it has all of them


@pytest.mark.parametrize("variant, trained_epochs", [("paper", [3, 6]), ("official", [1, 3, 6])])
def test_when_confidences_are_compared(make, tiny_batch, monkeypatch, variant, trained_epochs):
    """Before the next epoch begins, so that the evaluation in between sees what has been trained."""
    method, compared, counts = make(variant=variant, assign_every=3), [], []
    monkeypatch.setattr(method, "lagging", lambda scores: compared.append(method.epoch + 1) or 1)
    for _ in range(8):
        method.on_epoch_start(None)
        counts.append(method.model.fusion.used[1])
        step(method, tiny_batch())
        record = method.on_epoch_end(None)
        assert method.model.fusion.used == [1, counts[-1]]
        assert record["classifiers"] == {"audio": 1, "visual": counts[-1]}
    assert compared == trained_epochs
    assert counts == [1 + sum(epoch <= number for epoch in trained_epochs) for number in range(8)]


def test_confidence_is_the_mean_over_the_epochs_samples(make, tiny_batch):
    """Of the summed logits, from batches of different sizes."""
    method, found = make(used=(1, 2)), []
    method.on_epoch_start(None)
    for size in (6, 3):
        output, _ = step(method, tiny_batch(size=size, seed=size))
        for i, y in enumerate(output.target):
            found.append([z[i].softmax(0)[y].item() for z in output.unimodal.values()])
    record = method.on_epoch_end(None)["confidence"]
    assert record == pytest.approx({name: sum(row[m] for row in found) / 9 for m, name in enumerate(TWO)})


def test_a_lagging_modality_gets_classifiers_in_training_until_there_are_no_more(begin):
    method, run = begin("aug", THREE)
    counts = []
    for epoch in range(6):
        row = epoch_of(method, run, epoch)[1]
        counts.append(list(row["classifiers"].values()))
        least = min(row["confidence"], key=row["confidence"].get)
        before = row["classifiers"][least]
        assert (method.weakest is None) == (before == method.args.max_classifiers)
    steps = [[new - old for old, new in zip(*pair, strict=True)] for pair in zip(counts, counts[1:], strict=False)]
    assert all(sorted(added) in ([0, 0, 0], [0, 0, 1]) for added in steps) and any(map(any, steps))
    assert max(map(max, counts)) <= method.args.max_classifiers


def test_the_public_codes_variant_resumes_after_every_step(begin, tmp_path):
    """The paper's does so in test_within.py."""
    assert_resumes_after_every_step(lambda: begin("aug", variant="official", added="random", gap="ratio"), tmp_path)


# What is refused


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated", "shared"])
def test_other_fusions_are_refused_in_a_sentence(tiny_model, make_args, fusion):
    with pytest.raises(
        ValueError,
        match="^AUG adds classifiers that share a last layer: leave --fusion away, or use boosted$",
    ):
        AUG(make_args(**FLAGS), tiny_model(fusion=fusion))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant):
    args = vars(parse(["--method", "aug", "--variant", variant, "--epochs", "200"]))
    assert (VARIANTS[variant] | dict(fusion="boosted", assign_every=20)).items() <= args.items()
    own = parse(["--method", "aug", "--variant", variant, "--epochs", "9", "--added", "random"])
    assert (own.assign_every, own.added, own.gap) == (1, "random", VARIANTS[variant]["gap"])
