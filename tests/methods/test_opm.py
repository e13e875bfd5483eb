"""OPM and OPM+OGM: drop rates by hand, what the masks do on average and to each sample, and the two together."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.coefficients import literal_coefficients, score
from helpers.steps import gradients, one_step

from engine.parser import parse
from inforeg.scores import confidence
from methods.joint import Joint
from methods.ogm import OGM
from methods.opm import OPM, OPMWithOGM, drop_rates

FLAGS = dict(q_base=0.5, lam=0.5, p_exe=1.0, warmup_epochs=0)
WITH_OGM = FLAGS | dict(alpha=0.8, noise=0.0, modulation_starts=0, modulation_ends=50)


def fixed_rates(monkeypatch, *rates):
    monkeypatch.setattr("methods.opm.drop_rates", lambda *_: score(*rates))


def test_drop_rates_by_hand():
    # tanh(0.5) = 0.4621172: 0.5 (1 + 0.5 * 0.4621172); of three, tanh(3 / 1.5 - 1) = 0.7615942.
    assert drop_rates(score(3.0, 2.0), 0.5, 0.5).tolist() == pytest.approx([0.6155293, 0.0], abs=1e-7)
    assert drop_rates(score(2.0, 3.0), 0.5, 0.5).tolist() == pytest.approx([0.0, 0.6155293], abs=1e-7)
    assert drop_rates(score(3.0, 2.0, 1.0), 0.5, 0.5).tolist() == pytest.approx([0.6903985, 0.0, 0.0], abs=1e-7)
    assert drop_rates(score(9.0, 1.0), 0.9, 3.0).tolist() == [1.0, 0.0]


def test_the_smallest_lead_drops_at_the_base_rate_and_a_tie_drops_nothing():
    assert drop_rates(score(1.0 + 1e-12, 1.0), 0.5, 0.5)[0].item() == pytest.approx(0.5)
    for count in (2, 3, 4, 7):
        assert drop_rates(score(*[0.1] * count), 0.5, 0.5).tolist() == [0.0] * count


def test_the_weakest_of_any_number_is_never_dropped():
    draws = torch.Generator().manual_seed(0)
    for count in (2, 3, 5):
        scores = torch.rand(200, count, generator=draws, dtype=torch.float64) + 1e-3
        for s in scores:
            rates = drop_rates(s, 1.0, 1.0)
            assert rates[s.argmin()] == 0 and rates[s.argmax()] == 1


@pytest.mark.parametrize(
    "names, rates", [(("audio", "visual"), (0.6, 0.0)), (("audio", "visual", "text"), (0.3, 0.0, 0.7))]
)
def test_features_are_kept_whole_or_dropped_and_scaled_on_average(
    tiny_model, tiny_batch, make_args, monkeypatch, names, rates
):
    fixed_rates(monkeypatch, *rates)
    method = OPM(make_args(**FLAGS), tiny_model(names))
    batch, dims = tiny_batch(names, size=20000), dict(zip(names, (2, 3, 4), strict=False))
    features = {name: torch.rand(20000, dim, dtype=torch.float64) + 1 for name, dim in dims.items()}
    torch.manual_seed(0)
    dropped, target = method.modulate(features, batch)
    theta = sum(d * q for d, q in zip(dims.values(), rates, strict=True)) / sum(dims.values())
    assert torch.equal(target, batch.target)
    masks = []
    for name, q in zip(names, rates, strict=True):
        scale = dropped[name] / features[name]
        # One draw per sample and modality: every entry of a feature has the same factor, 0 or 1 / (1 - theta).
        torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))
        assert set(scale.flatten().mul(1 - theta).round(decimals=9).tolist()) == ({0.0, 1.0} if q else {1.0})
        # Deviation of the mean of 20000 draws: at most 0.0035 / (1 - theta).
        assert scale.mean().item() == pytest.approx((1 - q) / (1 - theta), abs=0.015 / (1 - theta))
        masks.append(scale[:, 0] > 0)
    if len(names) == 3:  # independent of each other
        both = (masks[0] & masks[2]).double().mean().item()
        assert both == pytest.approx(0.7 * 0.3, abs=0.015)


def test_a_share_of_the_batches_is_left_alone(tiny_model, tiny_batch, make_args, monkeypatch):
    fixed_rates(monkeypatch, 1.0, 0.0)
    method, batch = OPM(make_args(**FLAGS | {"p_exe": 0.7}), tiny_model()), tiny_batch()
    features = {"audio": torch.ones(6, 2).double(), "visual": torch.ones(6, 3).double()}
    torch.manual_seed(0)
    executed = 0
    for _ in range(1000):
        dropped, _ = method.modulate(features, batch)
        # Either all of the batch, rescaled by dims 2 and 3: theta = 2 / 5, or none of it.
        ran = not dropped["audio"].any()
        torch.testing.assert_close(dropped["visual"], features["visual"] * (5 / 3 if ran else 1))
        assert ran or torch.equal(dropped["audio"], features["audio"])
        executed += ran
    assert executed == pytest.approx(700, abs=60)  # four deviations


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_gradients_are_those_of_the_masked_loss(tiny_model, tiny_batch, make_args, monkeypatch, fusion):
    model, batch = tiny_model(fusion=fusion), tiny_batch()
    method, scales = OPM(make_args(**FLAGS), model), []
    fixed_rates(monkeypatch, 0.5, 0.0)
    real = method._scales
    method._scales = lambda *given: scales.append(real(*given)) or scales[-1]
    torch.manual_seed(1)
    literal = copy.deepcopy(model).train()
    modulated = one_step(method, batch)
    (scale,) = scales
    features = literal.encode(batch.inputs)
    masked = {name: features[name] * scale[:, [i]] for i, name in enumerate(features)}
    F.cross_entropy(literal.fuse(masked), batch.target).backward()
    assert 0 < (scale[:, 0] == 0).sum() < len(batch)
    for name, grad in gradients(literal).items():
        torch.testing.assert_close(modulated[name], grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method_class", [OPM, OPMWithOGM])
@pytest.mark.parametrize("neutral", [{"p_exe": 0.0}, {"q_base": 0.0}, {"warmup_epochs": 9}])
def test_neutral_settings_are_joint_training_bit_for_bit(
    tiny_model, tiny_batch, make_args, train, neutral, method_class
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    finals = []
    for chosen, flags in (
        (Joint, {}), (method_class, WITH_OGM | {"alpha": 0.0} | neutral), (method_class, WITH_OGM | {"alpha": 0.0})
    ):  # fmt: skip
        model = tiny_model()
        torch.manual_seed(0)
        method = chosen(make_args(**flags), model)
        train(method, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4), epochs)
        finals.append((model.state_dict(), method.trace.history))
    (joint, joint_traces), (same, traces), (dropped, _) = finals
    assert all(torch.equal(joint[name], same[name]) for name in joint)
    assert joint_traces == traces
    assert not all(torch.equal(joint[name], dropped[name]) for name in joint)


def test_the_score_is_read_before_dropping_and_sends_no_gradient(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model().train(), tiny_batch()
    method = OPM(make_args(**FLAGS | {"q_base": 1.0}), model)
    with torch.no_grad():
        wanted = confidence(model.unimodal(model.encode(batch.inputs)), batch.target)
    method.forward(batch)
    assert torch.equal(method.score, wanted)
    assert not method.score.requires_grad


def test_warm_up_drops_nothing_and_the_record_says_so(tiny_model, tiny_batch, make_args, train):
    model = tiny_model()
    method = OPM(make_args(**FLAGS | {"warmup_epochs": 2}), model)
    records = train(method, torch.optim.SGD(model.parameters(), lr=0.1), [[tiny_batch()] * 2] * 3)
    assert [max(record["drop_rate"].values()) >= 0.25 for record in records] == [False, False, True]
    assert set(records[1]["drop_rate"].values()) == {0.0}


@pytest.mark.parametrize("method_class", [OPM, OPMWithOGM])
@pytest.mark.parametrize("during, acts", [("prime", (1, 0)), ("outside", (0, 1)), ("all", (1, 1))])
def test_modulate_during_gates_each_modality(
    tiny_model, tiny_batch, make_args, monkeypatch, method_class, during, acts
):
    fixed_rates(monkeypatch, 0.5, 0.25)
    method = method_class(make_args(**WITH_OGM, modulate_during=during), tiny_model())
    method.trace.load_state_dict({"history": {"audio": [1.0, 2.0], "visual": [2.0, 2.0]}})  # open, closed
    one_step(method, tiny_batch())
    record = method.on_epoch_end(None)
    assert record["drop_rate"] == {"audio": 0.5 * acts[0], "visual": 0.25 * acts[1]}


def test_both_together_damp_by_the_scores_before_dropping(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(), tiny_batch()
    k = literal_coefficients(model, batch, 0.8)
    results = []
    for method_class in (OPM, OPMWithOGM):
        torch.manual_seed(0)
        results.append(one_step(method_class(make_args(**WITH_OGM), copy.deepcopy(model)), batch))
    dropped, both = results
    for name, grad in dropped.items():
        if name.endswith("conv.weight"):
            torch.testing.assert_close(both[name], k[name.split(".")[1]] * grad, rtol=1e-10, atol=0)
        else:
            assert torch.equal(both[name], grad)
    assert min(k.values()) < 0.35


def test_the_warm_up_is_for_both(tiny_model, tiny_batch, make_args, train):
    model = tiny_model()
    method = OPMWithOGM(make_args(**WITH_OGM | {"warmup_epochs": 1, "modulation_ends": 1}), model)
    records = train(method, torch.optim.SGD(model.parameters(), lr=0.1), [[tiny_batch()]] * 3)
    assert [max(record["drop_rate"].values()) > 0 for record in records] == [False, True, True]
    assert [min(record["coefficient"].values()) < 1 for record in records] == [False, True, False]


def test_dropping_is_off_where_ogm_alone_is_wanted(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(), tiny_batch()
    ogm = one_step(OGM(make_args(**WITH_OGM), copy.deepcopy(model)), batch)
    both = one_step(OPMWithOGM(make_args(**WITH_OGM | {"q_base": 0.0}), model), batch)
    assert all(torch.equal(ogm[name], both[name]) for name in ogm)


def test_one_modality_is_refused(tiny_model, make_args):
    with pytest.raises(ValueError, match="two or more"):
        OPM(make_args(**FLAGS), tiny_model(("audio",)))


def test_defaults():
    opm, both = parse(["--method", "opm"]), parse(["--method", "opm_ogm"])
    for args in (opm, both):
        assert (args.q_base, args.lam, args.p_exe, args.warmup_epochs) == (0.5, 0.5, 0.7, 6)
    assert (both.alpha, both.noise, both.modulation_starts, both.modulation_ends) == (0.8, 0.0, 0, 60)
    assert not hasattr(opm, "alpha")
    assert math.isclose(parse(["--method", "opm_ogm", "--alpha", "0.1"]).alpha, 0.1)
