"""CGGM against gradients of gradients from autograd, the balance by hand, and whom each part of the loss reaches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from engine.parser import parse
from methods.cggm import CGGM, VARIANTS, balance
from methods.joint import Joint
from models.fusion import Sum
from models.multimodal import Output, clip_gradients

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(names, fusion) for names in (TWO, THREE) for fusion in ("concat", "sum")]
FLAGS = dict(rho=1.3, direction_weight=0.2, classifier_weight=0.5, coefficients="clamped", direction="gradients")
BEFORE = (0.5, 0.2, 0.4)  # accuracies of an earlier step


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, fusion, begun, **flags): with an earlier step's accuracies, if it has begun."""

    def make(modalities=TWO, fusion="concat", begun=True, **flags):
        torch.manual_seed(3)
        method = CGGM(make_args(**FLAGS | flags), tiny_model(modalities, fusion))
        method.model.double()
        with torch.no_grad():  # so that classifiers differ from the fusion, and no bias is zero
            for p in [*method.model.heads.parameters(), *method.model.fusion.parameters()]:
                p.add_(torch.randn_like(p))
        if begun:
            method.accuracy = values(*BEFORE[: len(modalities)])
        return method

    return make


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def blocks(fusion, dims):
    """The parameters that read each modality, as functions of a gradient or a value of the fusion's weights."""
    if isinstance(fusion, Sum):
        return [head.weight for head in fusion.heads.values()], list
    return [fusion.head.weight], lambda of: list(of[0].split(list(dims.values()), dim=1))


def slow(method, batch, kind, class_weights=None):
    """Gradients of a step by autograd, with those of the cosines' own gradients; and B and the cosines."""
    model = copy.deepcopy(method.model).train()
    features, names = model.encode(batch.inputs), model.modalities
    logits = model.fuse(features)

    def cross_entropy(z):
        return F.cross_entropy(z, batch.target, class_weights)

    joint = cross_entropy(logits)
    parameters, by_modality = blocks(model.fusion, model.dims)
    own_losses, own, hits = [], [], []
    for name in names:
        z = model.heads[name](features[name].detach())
        own_losses.append(cross_entropy(z))
        own.append(torch.autograd.grad(own_losses[-1], model.heads[name].weight, retain_graph=True)[0])
        hits.append(sum(int(row.argmax()) == int(y) for row, y in zip(z, batch.target, strict=True)) / len(z))
    if kind == "gradients":
        fused = by_modality(torch.autograd.grad(joint, parameters, create_graph=True))
    else:
        fused, own = by_modality(parameters), [model.heads[name].weight.detach() for name in names]
    deltas = [now - before for now, before in zip(hits, BEFORE, strict=False)]
    if method.args.coefficients == "clamped":
        b = [min(max(1 - delta / sum(deltas), 0.0), 1.0) for delta in deltas]
    else:
        b = [1 - delta / (sum(deltas) + 1e-8) for delta in deltas]
    cosine = [(x * y).sum() / (x.square().sum() * y.square().sum()).sqrt() for x, y in zip(fused, own, strict=True)]
    term = sum(abs(x) - x * cos for x, cos in zip(b, cosine, strict=True)) / len(names)
    loss = joint + method.args.direction_weight * term + method.args.classifier_weight * sum(own_losses)
    loss.backward()
    for x, encoder in zip(b, model.encoders.values(), strict=True):
        for p in encoder.parameters():
            p.grad *= method.args.rho * x
    return gradients(model), loss, b, [cos.item() for cos in cosine]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class weights"])
@pytest.mark.parametrize("kind, coefficients", [("gradients", "clamped"), ("weights", "published")])
@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_loss_and_gradients_are_those_of_autograd_twice(
    make, tiny_batch, modalities, fusion, kind, coefficients, weighted
):
    method = make(modalities, fusion, direction=kind, coefficients=coefficients, direction_weight=3.0)
    batch, weights = tiny_batch(modalities, size=9), values(1.0, 2.0, 0.5) if weighted else None
    method.class_weights = weights
    expected, loss, b, cosine = slow(method, batch, kind, weights)
    _, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], loss)
    assert_same_gradients(gradients(method.model), expected)
    record = method.on_epoch_end(None)
    assert list(record["coefficient"].values()) == pytest.approx([1.3 * x for x in b])
    assert list(record["cosine"].values()) == pytest.approx(cosine)
    assert len({round(x, 6) for x in b}) > 1 and losses["loss_direction"] > 0.01


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_without_both_parts_it_is_joint_training_whatever_the_classifiers_do(
    make, tiny_batch, make_args, train, modalities, fusion
):
    epochs = [[tiny_batch(modalities, seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    neutral = make(modalities, fusion, coefficients="none", direction="none", classifier_weight=50.0)
    model = copy.deepcopy(neutral.model)
    model.heads = None
    joint = Joint(make_args(), model)
    records = [train(method, sgd(method.model), epochs) for method in (neutral, joint)]
    found = neutral.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in joint.model.state_dict().items())
    assert {name.split(".")[0] for name in found.keys() - joint.model.state_dict().keys()} == {"heads"}
    assert records[0][-1]["fisher_trace"] == records[1][-1]["fisher_trace"]
    assert records[0][-1]["cosine"] == dict.fromkeys(modalities)
    assert records[0][-1]["coefficient"] == dict.fromkeys(modalities, 1.0)


def test_a_classifiers_loss_trains_the_classifier_alone(make, tiny_batch):
    method = make()
    method.model.train()
    output = method.forward(tiny_batch())
    losses = method.losses(output)
    for name in TWO:
        grads = torch.autograd.grad(
            losses[f"loss_{name}"], [*method.model.parameters()], retain_graph=True, allow_unused=True
        )
        pairs = zip(method.model.named_parameters(), grads, strict=True)
        assert {key.rsplit(".", 1)[0] for (key, _), grad in pairs if grad is not None} == {f"heads.{name}"}
    reached = torch.autograd.grad(losses["loss_direction"], [*method.model.parameters()], allow_unused=True)
    pairs = zip(method.model.named_parameters(), reached, strict=True)
    assert {key.split(".")[0] for (key, _), grad in pairs if grad is not None} == {"encoders", "fusion"}


def test_the_direction_by_weights_reaches_the_fusions_weight_alone(make, tiny_batch):
    method = make(direction="weights")
    method.model.train()
    losses = method.losses(method.forward(tiny_batch()))
    grads = torch.autograd.grad(losses["loss_direction"], [*method.model.parameters()], allow_unused=True)
    pairs = zip(method.model.named_parameters(), grads, strict=True)
    assert [key for (key, _), grad in pairs if grad is not None] == ["fusion.head.weight"]


def test_balance_by_hand():
    def both(*progress):
        return [balance(values(*progress), clamped).tolist() for clamped in (True, False)]

    for found in both(0.3, 0.1):  # who improved more gets less: delta_2 / (delta_1 + delta_2)
        assert found == pytest.approx([0.25, 0.75], abs=1e-6)
    for found in both(0.2, 0.2, 0.2):
        assert found == pytest.approx([2 / 3] * 3, abs=1e-6)
    clamped, published = both(0.1, -0.05)
    assert published == pytest.approx([-1.0, 2.0], abs=1e-5) and clamped == [0.0, 1.0]
    for found in both(-0.3, -0.1):  # where all fall, who fell more gets less
        assert found == pytest.approx([0.25, 0.75], abs=1e-6)
    for small in (1e-8, -9e-4):  # rounding is no progress; one of 512 samples is
        assert both(1 / 9, small - 1 / 9)[0] == pytest.approx([0.5, 0.5])
    assert both(1 / 512, 0.0)[0] == [0.0, 1.0]
    clamped, published = both(0.0, 0.0, 0.0)
    assert clamped == pytest.approx([2 / 3] * 3) and published == [1.0] * 3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_balance_sums_to_all_but_one_and_is_bounded(count):
    draws = torch.Generator().manual_seed(count)
    order = torch.randperm(count, generator=draws)
    for _ in range(50):
        progress = torch.rand(count, dtype=torch.float64, generator=draws) - 0.3
        published, clamped = balance(progress, clamped=False), balance(progress, clamped=True)
        assert published.sum().item() == pytest.approx(count - 1, rel=1e-5)
        assert ((clamped >= 0) & (clamped <= 1)).all()
        torch.testing.assert_close(balance(progress[order], clamped=True), clamped[order])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_that_cancel_give_a_finite_step(make, tiny_batch, variant, dtype):
    bounds = {"paper": (0.5, 0.5), "official": (1e5, 1e8)}
    method, batch = make(**VARIANTS[variant]), tiny_batch(size=9)
    method.model.to(dtype)
    batch.inputs.update({name: x.to(dtype) for name, x in batch.inputs.items()})
    step(method, batch)
    method.accuracy = method.accuracy - torch.tensor([1 / 9, -1 / 9], dtype=dtype)
    _, losses = step(method, batch)
    assert losses["loss"].isfinite() and all(grad.isfinite().all() for grad in gradients(method.model).values())
    least, most = bounds[variant]
    assert all(least <= abs(b) <= most for b in method._balance.tolist())


def test_a_batch_like_the_last_one_has_no_progress(make, tiny_batch):
    method, batch = make(THREE, begun=False), tiny_batch(THREE)
    step(method, batch)
    step(method, batch)
    assert method.on_epoch_end(None)["coefficient"] == pytest.approx(dict.fromkeys(THREE, (1 + 1.3 * 2 / 3) / 2))


def test_the_first_step_is_joint_training_and_the_next_compares_with_it(make, tiny_batch):
    first, second = tiny_batch(size=9), tiny_batch(size=9, seed=1)
    method, plain = make(begun=False), make(begun=False, coefficients="none", direction="none")
    assert method.state_dict()["accuracy"] is None
    assert_same_gradients(one_step(method, first), one_step(plain, first), rtol=0, atol=0)
    with torch.no_grad():
        logits = method.model.unimodal(method.model.encode(first.inputs)).values()
        right = [(z.argmax(1) == first.target).double().mean().item() for z in logits]
    assert method.state_dict()["accuracy"].tolist() == right
    again = make()
    again.model.load_state_dict(method.model.state_dict())
    again.load_state_dict(method.state_dict())
    assert_same_gradients(one_step(method, second), one_step(again, second), rtol=0, atol=0)


def test_the_factor_is_one_for_all_tensors_of_an_encoder_and_leaves_the_rest(make, tiny_batch):
    batch = tiny_batch(THREE, size=9)
    plain, method = one_step(make(THREE, coefficients="none"), batch), make(THREE, rho=2.0)
    found = one_step(method, batch)
    factors = method.on_epoch_end(None)["coefficient"]
    for name, grad in plain.items():
        factor = factors[name.split(".")[1]] if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(found[name], factor * grad, rtol=1e-12, atol=0)
    assert len(set(factors.values())) > 1 and 0 < max(factors.values()) <= 2


def test_the_direction_lies_between_its_bounds(make, tiny_batch):
    method = make(THREE, direction_weight=1.0, coefficients="published")
    for seed in range(20):
        _, losses = step(method, tiny_batch(THREE, seed=seed))
        b = method._balance
        assert 0 <= losses["loss_direction"] <= 2 * b.abs().mean() + 1e-12
        shown = (b.abs() - b * method._cosine).mean()
        torch.testing.assert_close(losses["loss_direction"], shown)


@pytest.mark.parametrize("kind", ["gradients", "weights"])
def test_a_fusion_that_is_the_classifiers_has_their_direction(make, kind):
    """The cosine is 1 for the modality whose classifier is all of the fusion, and the term is 0 if it alone counts."""
    method = make(direction=kind, direction_weight=1.0)
    audio, head = method.model.heads["audio"], method.model.fusion.head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, :2], head.bias[:] = audio.weight, audio.bias
    draws = torch.Generator().manual_seed(0)
    features = {n: torch.randn(8, d, dtype=torch.float64, generator=draws) for n, d in method.model.dims.items()}
    target = torch.arange(8) % 3
    output = Output(method.model.fuse(features), method.model.unimodal(features), features, target)
    assert method.cosines(output)[0].item() == pytest.approx(1)
    method.accuracy = method.accuracy * 0  # so that both have improved
    losses = method.losses(output)
    b, cosine = method._balance, method._cosine
    assert losses["loss_direction"].item() == pytest.approx((b[1] * (1 - cosine[1]) / 2).item())


def test_descent_on_the_direction_turns_the_fusions_gradient_to_the_classifiers(make, tiny_batch):
    method, batch = make(coefficients="clamped", direction_weight=1.0), tiny_batch(size=9)
    method.model.train()
    parameters = [*method.model.parameters()]
    losses = method.losses(method.forward(batch))
    grads = torch.autograd.grad(losses["loss_direction"], parameters, allow_unused=True)
    with torch.no_grad():
        for p, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                p.sub_(1e-3 * grad)
    assert method.losses(method.forward(batch))["loss_direction"] < losses["loss_direction"]


@pytest.mark.parametrize("during, acting", [("prime", {"audio"}), ("outside", {"visual"}), ("all", {*TWO})])
def test_the_gate_is_each_modalitys_own(make, tiny_batch, during, acting):
    method = make(modulate_during=during, direction_weight=1.0, coefficients="published")
    method.trace.load_state_dict({"history": {"audio": [1.0, 2.0], "visual": [2.0, 2.0]}})  # open, closed
    _, losses = step(method, tiny_batch(size=9))
    terms = (method._balance.abs() - method._balance * method._cosine).tolist()
    expected = sum(term for name, term in zip(TWO, terms, strict=True) if name in acting) / 2
    assert losses["loss_direction"].item() == pytest.approx(expected) and min(terms) > 0
    factors = method.on_epoch_end(None)["coefficient"]
    assert {name for name, factor in factors.items() if factor != 1} == acting


@pytest.mark.parametrize("fusion", ["film", "gated", "shared"])
def test_other_fusions_have_no_direction(make, tiny_batch, fusion):
    with pytest.raises(ValueError, match="^CGGM's direction .*: use --fusion concat or sum, or --direction none$"):
        make(fusion=fusion)
    batch = tiny_batch(size=9)
    plain = one_step(make(fusion=fusion, direction="none", coefficients="none"), batch)
    method = make(fusion=fusion, direction="none")
    found, factors = one_step(method, batch), method.on_epoch_end(None)["coefficient"]
    for name in TWO:
        key = f"encoders.{name}.conv.weight"
        torch.testing.assert_close(found[key], factors[name] * plain[key], rtol=1e-12, atol=0)
    assert len(set(factors.values())) == 2


def test_cosines_are_in_full_precision_under_autocast(make, tiny_batch):
    method, batch = make(), tiny_batch(size=9)
    method.model.train()
    expected = method.cosines(method.forward(batch))
    method.model.float()
    batch.inputs.update({name: x.float() for name, x in batch.inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        output = method.forward(batch)
        found = method.cosines(output)
        losses = method.losses(output)
    assert output.logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected.tolist(), abs=3e-2)
    unimodal, features = ({n: x.double() for n, x in of.items()} for of in (output.unimodal, output.features))
    rounded = Output(output.logits.double(), unimodal, features, output.target)
    assert found.tolist() == pytest.approx(method.cosines(rounded).tolist(), abs=1e-5)
    losses["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.model.parameters())


def test_a_frozen_encoder_is_left_alone(make, tiny_batch):
    method = make()
    method.model.freeze(["audio"])
    found = one_step(method, tiny_batch())
    assert all((grad is None) == name.startswith("encoders.audio.") for name, grad in found.items())


def test_the_clip_leaves_the_classifiers_as_large_as_they_are(make, tiny_batch):
    method = make(begun=False)  # else an encoder may have none
    free = one_step(method, tiny_batch())
    clip_gradients(method.clipped(), 1e-6)
    for name, grad in gradients(method.model).items():
        kept = name.startswith("heads.")
        assert torch.equal(grad, free[name]) if kept else grad.norm() <= 1e-6 < free[name].norm(), name


def test_one_modality_is_refused(make):
    with pytest.raises(ValueError, match="^CGGM weighs modalities against each other: it needs two or more$"):
        make(("audio",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant, capsys):
    words = ["--method", "cggm", "--variant", variant]
    args = vars(parse(words))
    assert VARIANTS[variant].items() <= args.items()
    assert (args["rho"], args["direction_weight"], args["classifier_weight"]) == (1.3, 0.2, 0.5)
    assert parse([*words, "--dataset", "Food101"]).direction_weight == 0.05
    assert parse([*words, "--coefficients", "none"]).coefficients == "none"
    with pytest.raises(SystemExit):
        parse([*words, "--unimodal_loss", "split"])
    assert "--unimodal_loss does not apply" in capsys.readouterr().err
