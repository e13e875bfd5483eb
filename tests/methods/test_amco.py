"""AMCo: the score, the rate and the masks by hand, whom they reach, and BalanceBenchmark's oscillation."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import THREE, TWO
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from engine.parser import parse
from methods.amco import VARIANTS, AMCo, dependence, scaled_mask
from methods.joint import Joint

FLAGS = dict(sigma=None, mask_epochs=4, co_optimise="masked", readout="split")
FUSIONS = ["concat", "sum", "film", "gated", "shared"]


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, fusion, epoch, **flags): the method on a tiny model, before the first step of an epoch."""

    def make(modalities=TWO, fusion="concat", epoch=0, variant="paper", **flags):
        method = AMCo(make_args(variant=variant, **FLAGS | VARIANTS[variant] | flags), tiny_model(modalities, fusion))
        method.model.double()
        put(method, epoch)
        return method

    return make


def put(method, epoch):
    """As though `epoch` comes next."""
    method.trace.load_state_dict({"history": {name: [1.0] * epoch for name in method.model.modalities}})
    method.on_epoch_start(None)


def lead(method, name):
    """Make the modality the one that is leaned on: its read-outs are far apart, the others' all but equal."""
    with torch.no_grad():
        for other, p in zip(method.model.modalities, weights_of(method.model.fusion), strict=True):
            p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p) * (9 if other == name else 1e-3))


def weights_of(fusion):
    return [head.weight for head in fusion.heads.values()] if hasattr(fusion, "heads") else fusion.head.weight.split(
        fusion.dims, dim=1
    )  # fmt: skip


def logits(*rows):
    return {f"m{i}": torch.tensor(row, dtype=torch.float64) for i, row in enumerate(rows)}


# The score


def test_the_score_by_hand():
    # Of one sample, centred: exp(+-1) = 2.718, 0.368 beside exp(0) twice: 3.0862 of 5.0862.
    some = logits([[2.0, 0.0]], [[7.0, 7.0]])
    assert dependence(some).tolist() == pytest.approx([0.606776, 0.393224], abs=1e-6)
    # Uncentred: exp(2) + 1 = 8.389 beside 2 exp(7) = 2193.27.
    assert dependence(some, centred=False).tolist() == pytest.approx([0.003810, 0.996190], abs=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_the_score_is_a_share_that_no_constant_moves(count):
    draws = torch.Generator().manual_seed(0)
    z = {f"m{i}": 3 * torch.randn(40, 5, dtype=torch.float64, generator=draws) for i in range(count)}
    score = dependence(z)
    assert (score >= 0).all() and score.sum().item() == pytest.approx(1)
    assert (dependence({name: torch.stack([z["m0"][0]] * 7) for name in z}) - 1 / count).abs().max() < 1e-12
    shifted = z | {"m0": z["m0"] + torch.randn(40, 1, dtype=torch.float64, generator=draws)}
    torch.testing.assert_close(dependence(shifted), score)
    assert (dependence(shifted, centred=False) - dependence(z, centred=False)).abs().max() > 0.01
    twice = {name: torch.cat([rows, rows]) for name, rows in z.items()}
    torch.testing.assert_close(dependence(twice), score)


def test_the_score_is_in_full_precision_under_autocast():
    z = {"m0": torch.tensor([[300.0, 1.0]]).bfloat16(), "m1": torch.tensor([[0.0, 0.5]]).bfloat16()}
    assert dependence(z).dtype == torch.float32


def test_the_largest_score_is_masked_if_it_exceeds_sigma(make):
    z = logits([[2.0, 0.0]], [[7.0, 7.0]], [[1.0, 1.0]])
    score = dependence(z)
    for sigma in (None, 0.3, score.max().item() - 1e-9, score.max().item() + 1e-9, 1.0):
        method = make(THREE, sigma=sigma)
        method.judge(z)
        chosen = score.max() > (1 / 3 if sigma is None else sigma)
        assert method.leaned_on.tolist() == [bool(chosen), False, False]
    assert make(TWO).sigma == 1 / 2 and make(THREE).sigma == 1 / 3
    both = make(THREE, sigma=0.2)
    both.judge(logits([[2.0, 0.0]], [[0.0, 2.1]], [[1.0, 1.0]]))
    assert both.leaned_on.tolist() == [False, True, False]
    last = make(THREE, variant="benchmark")  # not centred
    last.judge(z)
    assert last.leaned_on.tolist() == [False, True, False]


def test_the_score_does_not_see_the_mask(make, tiny_batch):
    flags, batch = [], tiny_batch()
    for rate in (0.1, 1.0):
        method = make(epoch=9, mask_end=rate)
        step(method, batch)
        flags.append(method.leaned_on)
    assert torch.equal(*flags) and flags[0].sum() == 1


# The rate


def test_the_rate_grows_over_the_run(make):
    method, rates = make(mask_epochs=6), []
    for epoch in range(9):
        put(method, epoch)
        rates.append(method.rate)
    assert rates[0] == 0 and rates == sorted(rates) and rates[6:] == [0.9] * 3
    assert rates[2] == pytest.approx(0.9 * math.sin(math.pi / 6)) == pytest.approx(0.45)  # a third of T: half
    method.args.mask_end = 0.0
    assert method.rate == 0


def test_in_balancebenchmark_it_grows_in_each_epoch_anew(make, tiny_batch):
    expected = {0: [0, 0, 0, 0], 1: [0, 0.5, 0.75**0.5, 1], 3: [0, 1, 1, 1]}
    for epoch, rates in expected.items():
        method, found = make(variant="benchmark", epoch=epoch), []
        for seed in range(4):
            found.append(method.rate)
            step(method, tiny_batch(seed=seed))
        assert found == pytest.approx(rates)


# The masks


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.72, 0.9])
def test_a_share_of_each_samples_entries_is_zero_and_their_mean_is_kept(rate):
    torch.manual_seed(0)
    feature = torch.ones(300, 50, dtype=torch.float64)
    mask = scaled_mask(feature, rate, "sample")
    assert ((mask == 0).sum(dim=1) == round(rate * 50)).all()
    torch.testing.assert_close(mask.mean(dim=1), torch.ones(300, dtype=torch.float64))
    assert len(set(mask[mask > 0].tolist())) == 1
    if rate:  # drawn for each sample, and every entry alike
        assert not torch.equal(mask[0], mask[1])
        assert ((mask == 0).double().mean(dim=0) - round(rate * 50) / 50).abs().max() < 0.13
    drawn = scaled_mask(torch.ones(4000, 50, dtype=torch.float64), rate, "bernoulli")
    assert drawn.mean().item() == pytest.approx(1, abs=0.04)
    assert (drawn == 0).double().mean().item() == pytest.approx(rate, abs=0.01)


def test_of_few_entries_one_is_left_unless_all_are_asked_for():
    feature = torch.ones(20, 2, dtype=torch.float64)
    assert (scaled_mask(feature, 0.9, "sample").sum(dim=1) == 2).all()
    assert not any(scaled_mask(feature, 1.0, kind).any() for kind in ("sample", "bernoulli", "batch"))


def test_balancebenchmarks_mask_is_one_for_the_batch():
    feature = torch.ones(20, 10, dtype=torch.float64)
    mask = scaled_mask(feature, 0.57, "batch")
    assert mask.shape == (1, 10) and (mask == 0).sum() == 5
    torch.testing.assert_close(mask[mask > 0], torch.full((5,), 1 / 0.43, dtype=torch.float64))
    assert scaled_mask(feature, 0.95, "batch").max() == 10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_one_modality_is_masked_and_the_others_are_untouched(make, tiny_batch, modalities, variant):
    for leader in modalities:
        method, batch = make(modalities, epoch=5, variant=variant), tiny_batch(modalities)
        lead(method, leader)
        features = {name: torch.randn(6, dim, dtype=torch.float64) for name, dim in method.model.dims.items()}
        method.steps = 9
        method.judge(method.model.unimodal(features))
        masked, target = method.modulate(features, batch)
        assert torch.equal(target, batch.target)
        same = {name: torch.equal(masked[name], feature) for name, feature in features.items()}
        assert same == {name: name != leader for name in modalities}


def test_who_is_out_of_force_is_not_masked(make, tiny_batch):
    method = make(epoch=5)
    lead(method, "audio")
    for allowed in TWO:
        method.in_force = lambda name, allowed=allowed: name == allowed
        features = {name: torch.randn(6, dim, dtype=torch.float64) for name, dim in method.model.dims.items()}
        masked, _ = method.modulate(features, tiny_batch())
        assert torch.equal(masked["visual"], features["visual"])
        assert torch.equal(masked["audio"], features["audio"]) == (allowed == "visual")
        step(method, tiny_batch())
        assert (method.on_epoch_end(None)["mask_rate"]["audio"] == 0) == (allowed == "visual")
    method.in_force, before = lambda name: False, torch.get_rng_state()
    method.modulate(features, tiny_batch())
    assert torch.equal(torch.get_rng_state(), before)


# The losses


@pytest.mark.parametrize("co_optimise", ["masked", "unmasked"])
@pytest.mark.parametrize("modalities, fusion", [(TWO, fusion) for fusion in FUSIONS] + [(THREE, "concat")])
def test_gradients_are_those_of_the_written_losses(make, tiny_batch, modalities, fusion, co_optimise):
    method, batch = make(modalities, fusion, epoch=2, co_optimise=co_optimise), tiny_batch(modalities)
    model = copy.deepcopy(method.model).train()
    torch.manual_seed(4)
    found = one_step(method, batch)
    torch.manual_seed(4)
    features = model.encode(batch.inputs)
    score = dependence(model.unimodal(features))
    leader = modalities[score.argmax()]
    masks = {name: scaled_mask(feature, method.rate, "sample") for name, feature in features.items()}
    masked = features | {leader: features[leader] * masks[leader]}
    assert not torch.equal(masked[leader], features[leader])
    alone = model.unimodal(masked if co_optimise == "masked" else features)
    loss = F.cross_entropy(model.fuse(masked), batch.target)
    for z in alone.values():
        loss = loss + F.cross_entropy(z, batch.target)
    loss.backward()
    assert_same_gradients(found, gradients(model))


@pytest.mark.parametrize("readout", ["split", "heads"])
@pytest.mark.parametrize("neutral", [dict(mask_end=0.0), dict(sigma=1.0)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_mask_it_is_joint_training_with_unimodal_losses_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train, variant, neutral, readout
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    finals = []
    for kind in ("joint", "neutral", "acting"):
        torch.manual_seed(0)
        if kind == "joint":
            method = Joint(make_args(unimodal_loss=readout), tiny_model())
            method.model.double()
        else:
            method = make(variant=variant, readout=readout, **(neutral if kind == "neutral" else {}))
        records = train(method, sgd(method.model), epochs)
        finals.append((method.model.state_dict(), records[-1]["fisher_trace"]))
    joint, same, acting = finals
    assert all(torch.equal(value, joint[0][name]) for name, value in same[0].items()) and same[1] == joint[1]
    assert not all(torch.equal(value, joint[0][name]) for name, value in acting[0].items())


def test_in_the_first_epoch_nothing_is_drawn(make, tiny_batch):
    for epoch, drawn in ((0, False), (2, True)):
        method, before = make(epoch=epoch), torch.get_rng_state()
        step(method, tiny_batch())
        assert torch.equal(torch.get_rng_state(), before) != drawn


def test_with_all_of_it_masked_an_encoder_gets_no_gradient(make, tiny_batch):
    """By the fusion's read-out of no feature: its own loss is log C. With the default p_max it does learn."""
    for mask_end in (1.0, 0.9):
        method, batch = make(THREE, "sum", epoch=9, mask_end=mask_end), tiny_batch(THREE)
        lead(method, "visual")
        output, losses = step(method, batch)
        grads = [p.grad for p in method.model.encoders["visual"].parameters()]
        assert any(grad.any() for grad in grads) == (mask_end < 1)
        if mask_end == 1:
            assert losses["loss_visual"].item() == pytest.approx(math.log(3))
        assert all(p.grad.any() for p in method.model.encoders["audio"].parameters() if p.ndim == 4)
    unmasked = make(THREE, "sum", epoch=9, mask_end=1.0, co_optimise="unmasked")
    lead(unmasked, "visual")
    one_step(unmasked, tiny_batch(THREE))
    assert all(p.grad.any() for p in unmasked.model.encoders["visual"].parameters() if p.ndim == 4)


def test_evaluation_masks_nothing(make, tiny_batch):
    method, batch = make(epoch=9), tiny_batch()
    step(method, batch)
    method.model.eval()
    output = method.forward(batch)
    features = method.model.encode(batch.inputs)
    assert torch.equal(output.logits, method.model.fuse(features))


# BalanceBenchmark's rule, and what is recorded


def test_in_balancebenchmark_every_other_batch_goes_unmasked(make, tiny_batch):
    method, batch, masked = make(variant="benchmark", epoch=3), tiny_batch(), []
    lead(method, "audio")
    method.model.train()
    for _ in range(7):  # of a model that stays as it is
        with torch.no_grad():
            output = method.forward(batch)
            method.judge(output.unimodal)
            method.steps += 1
        masked.append(not output.features["audio"].any())
    assert masked[1:] == [True, False, True, False, True, False]
    ours = make(epoch=9, mask_end=1.0)
    lead(ours, "audio")
    ours.model.train()
    assert not any(ours.forward(batch).features["audio"].any() for _ in range(5))


def test_its_flags_are_cleared_between_epochs_and_kept_within_them(make, tiny_batch):
    method, other = make(variant="benchmark", epoch=3), make(variant="benchmark")
    lead(method, "audio")
    step(method, tiny_batch())
    assert method.leaned_on.tolist() == [True, False] and method.steps == 1
    other.load_state_dict(method.state_dict())
    assert other.leaned_on.tolist() == [True, False] and other.steps == 1
    put(method, 4)
    assert method.leaned_on.tolist() == [False, False] and method.steps == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_and_rates_are_recorded(make, tiny_batch, train, variant):
    method = make(THREE, variant=variant)
    lead(method, "audio")
    records = train(method, sgd(method.model), [[tiny_batch(THREE, seed=i) for i in range(3)] for _ in range(3)])
    for record in records:
        assert sum(record["score"].values()) == pytest.approx(1)
    rates = [sum(record["mask_rate"].values()) for record in records]
    assert rates[0] == 0 and max(rates) > 0
    if variant == "paper":
        assert rates == pytest.approx([0.9 * math.sin(math.pi / 8 * epoch) for epoch in range(3)])


def test_what_it_is_not_defined_for_is_refused_in_a_sentence(make):
    with pytest.raises(ValueError, match="^AMCo weighs modalities against each other: it needs two or more$"):
        make(("audio",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant):
    args = vars(parse(["--method", "amco", "--variant", variant]))
    assert VARIANTS[variant].items() <= args.items() and args["mask_epochs"] == 30
    assert args["sigma"] == VARIANTS[variant].get("sigma")
    own = parse(["--method", "amco", "--variant", variant, "--mask", "bernoulli", "--mask_end", "0.5"])
    assert (own.mask, own.mask_end, own.mask_schedule) == ("bernoulli", 0.5, VARIANTS[variant]["mask_schedule"])
