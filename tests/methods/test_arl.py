"""ARL against its coefficients written out sample by sample, acting at the encoders' outputs, and their limits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from engine.parser import parse
from methods.arl import ARL, VARIANTS, coefficients, dependence, entropies, inverse_shares
from methods.joint import Joint

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, fusion) for fusion in ("concat", "sum", "film", "gated", "shared")]
SETTINGS += [(THREE, fusion) for fusion in ("concat", "sum", "shared")]
FLAGS = dict(gamma=4.0, temperature=4.0, coefficients="asymmetric", warmup_epochs=0, warmup_gamma=None)


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", **flags):
        return ARL(make_args(**FLAGS | flags), tiny_model(modalities, fusion))

    return make


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def slow(unimodal, temperature):
    """1 + k of each modality, in numbers, one sample and one class at a time."""
    entropy, size, names = {}, {}, list(unimodal)
    for name, logits in unimodal.items():
        rows = logits.tolist()
        entropy[name] = size[name] = 0.0
        for row in rows:
            total = sum(math.exp(z) for z in row)
            entropy[name] -= sum(math.exp(z) / total * math.log(math.exp(z) / total) for z in row) / len(rows)
            size[name] += sum(abs(z) for z in row) / len(rows)
    h = {m: max(entropy[m] / sum(entropy.values()), 0.6 / len(names)) for m in names}
    q = {m: (1 / h[m]) / sum(1 / h[j] for j in names) for m in names}
    d = {m: size[m] / sum(size.values()) for m in names}
    others = {m: math.prod(d[j] for j in names if j != m) for m in names}
    e = {m: math.exp(temperature * q[m] * others[m] / sum(others.values())) for m in names}
    return {m: 1 + e[m] / sum(e.values()) for m in names}


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_it_scales_the_gradient_at_the_encoders_outputs(make, tiny_batch, modalities, fusion):
    method, batch = make(modalities, fusion, gamma=0.7), tiny_batch(modalities, size=9)
    literal = copy.deepcopy(method.model).train()
    features = literal.encode(batch.inputs)
    unimodal = literal.unimodal(features)
    factors = slow(unimodal, temperature=4.0)
    for name, feature in features.items():
        feature.register_hook(lambda grad, name=name: factors[name] * grad)
    expected = F.cross_entropy(literal.fuse(features), batch.target)
    expected = expected + 0.7 * sum(F.cross_entropy(z, batch.target) for z in unimodal.values())
    expected.backward()
    _, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected)
    assert_same_gradients(gradients(method.model), gradients(literal))
    record = method.on_epoch_end(None)
    assert record["coefficient"] == pytest.approx(factors)
    assert sum(record["coefficient"].values()) == pytest.approx(len(modalities) + 1)
    assert sum(record["dependence"].values()) == pytest.approx(1)
    assert max(factors.values()) - min(factors.values()) > 0.02  # otherwise nothing has been compared


@pytest.mark.parametrize("kind", ["asymmetric", "uniform"])
def test_the_coefficients_act_on_every_tensor_of_an_encoder_and_on_nothing_else(make, tiny_batch, kind):
    batch = tiny_batch(THREE)
    plain = one_step(make(THREE, coefficients="none"), batch)
    method = make(THREE, coefficients=kind)
    found = one_step(method, batch)
    factors = method.on_epoch_end(None)["coefficient"]
    assert all(1 < factor < 2 for factor in factors.values())
    assert len(set(factors.values())) == (3 if kind == "asymmetric" else 1)
    for name, grad in plain.items():
        factor = factors[name.split(".")[1]] if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(found[name], factor * grad, rtol=1e-12, atol=0)
    if kind == "uniform":
        assert factors == dict.fromkeys(THREE, pytest.approx(1 + 1 / 3))


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
@pytest.mark.parametrize("gamma, unimodal_loss", [(0.0, "none"), (1.0, "split")])
def test_without_coefficients_it_is_joint_training_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train, modalities, gamma, unimodal_loss
):
    epochs = [[tiny_batch(modalities, seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    neutral = make(modalities, gamma=gamma, coefficients="none")
    joint = Joint(make_args(unimodal_loss=unimodal_loss), tiny_model(modalities))
    records = [train(method, sgd(method.model), epochs) for method in (neutral, joint)]
    states = neutral.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert records[0][-1]["fisher_trace"] == records[1][-1]["fisher_trace"]
    assert records[0][-1]["coefficient"] == dict.fromkeys(modalities, 1.0)


def test_parts_by_hand():
    logits = torch.tensor([[[1.0, -1.0], [3.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    assert dependence(logits).tolist() == pytest.approx([3 / 4, 1 / 4])  # (2 + 4) / 2 and (0 + 2) / 2
    p = math.exp(2) / (1 + math.exp(2))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)  # of a difference of 2
    assert entropies(logits).tolist() == pytest.approx([entropy, (math.log(2) + entropy) / 2])
    assert inverse_shares(values(0.8, 1.2)).tolist() == pytest.approx([0.6, 0.4])
    # Of two, the other one's dependence: softmax(8 * [0.6 * 0.3, 0.4 * 0.7]).
    k = coefficients(values(0.6, 0.4), values(0.7, 0.3), 8.0)
    assert k.tolist() == pytest.approx([0.3100255, 0.6899745], abs=1e-7)
    # Of three, the products of the others', 0.0625, 0.125 and 0.125 over 0.3125: softmax([1, 1.2, 0.8]).
    k = coefficients(values(0.5, 0.3, 0.2), values(0.5, 0.25, 0.25), 10.0)
    e = [math.exp(x) for x in (1.0, 1.2, 0.8)]
    assert k.tolist() == pytest.approx([x / sum(e) for x in e])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_who_is_relied_on_less_than_its_variance_allows_gains_most(count):
    draws = torch.Generator().manual_seed(count)
    for _ in range(50):
        q, d = torch.rand(2, count, dtype=torch.float64, generator=draws).add(0.05)
        q, d = q / q.sum(), d / d.sum()
        k = coefficients(q, d, 4.0)
        assert torch.equal(k.argsort(), (q / d).argsort()) and k.sum().item() == pytest.approx(1)
        torch.testing.assert_close(coefficients(q, q, 4.0), torch.full_like(k, 1 / count))
        torch.testing.assert_close(coefficients(q, d, 0.0), torch.full_like(k, 1 / count))
        assert torch.equal(coefficients(q, d, 1e9), F.one_hot((q / d).argmax(), count).double())


@pytest.mark.parametrize("count", [2, 3])
def test_more_dependence_or_more_entropy_lowers_a_modalitys_own_coefficient(count):
    entropy = torch.linspace(1, 1.5, count, dtype=torch.float64)
    size = torch.linspace(2, 1, count, dtype=torch.float64)
    before = coefficients(inverse_shares(entropy), size / size.sum(), 4.0)
    for m in range(count):
        more = torch.ones(count, dtype=torch.float64).index_fill(0, torch.tensor(m), 1.2)
        relied = coefficients(inverse_shares(entropy), size * more / (size * more).sum(), 4.0)
        unsure = coefficients(inverse_shares(entropy * more), size / size.sum(), 4.0)
        assert relied[m] < before[m] and unsure[m] < before[m]


def test_the_share_of_entropy_has_a_floor():
    assert inverse_shares(values(0.0, 1.0)).tolist() == pytest.approx([10 / 13, 3 / 13])
    assert inverse_shares(values(0.1, 0.9)).tolist() == pytest.approx([3 / 4, 1 / 4])
    assert inverse_shares(values(0.6, 1.4)).tolist() == pytest.approx([0.7, 0.3])
    # Of four it lies under an equal share, too, so that not all who are under the largest become alike.
    four = inverse_shares(values(0.2, 0.22, 0.26, 0.32))
    assert len(set(four.tolist())) == 4 and (four[:-1] > four[1:]).all()


@pytest.mark.parametrize("count", [2, 3])
def test_it_stays_finite_where_nothing_is_left_to_compare(count):
    sure = 1e4 * torch.eye(3, dtype=torch.float64).expand(count, 3, 3)
    silent = torch.zeros(count, 3, 3, dtype=torch.float64)
    for logits in (sure, -sure, silent):
        k = coefficients(inverse_shares(entropies(logits)), dependence(logits), 8.0)
        torch.testing.assert_close(k, torch.full_like(k, 1 / count))
    one = torch.cat([sure[:1], silent[1:]])  # sure and loud beside unsure and silent
    k = coefficients(inverse_shares(entropies(one)), dependence(one), 8.0)
    assert k.isfinite().all() and k.sum().item() == pytest.approx(1)


def test_a_constant_on_all_classes_moves_the_dependence_and_no_entropy():
    logits = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = logits + values(10.0, 0.0).view(2, 1, 1)
    torch.testing.assert_close(entropies(moved), entropies(logits))
    assert dependence(moved)[0] > dependence(logits)[0] + 0.2


def test_swapped_modalities_swap_the_coefficients():
    logits = torch.randn(3, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 1])
    k, swapped = (coefficients(inverse_shares(entropies(z)), dependence(z), 4.0) for z in (logits, logits[order]))
    torch.testing.assert_close(swapped, k[order])


def test_the_first_epochs_have_no_coefficients_and_may_have_another_gamma(make, tiny_batch, train):
    batches = [tiny_batch()] * 2
    for early in (None, 1.0):
        method = make(warmup_epochs=2, warmup_gamma=early)
        gammas, real = [], method.losses

        def losses(output, real=real, gammas=gammas):
            found = real(output)
            own = found["loss_audio"] + found["loss_visual"]
            gammas.append(((found["loss"] - found["loss_joint"]) / own).item())
            return found

        method.losses = losses
        records = train(method, torch.optim.SGD(method.model.parameters(), lr=0.1), [batches] * 4)
        acted = [max(record["coefficient"].values()) > 1 for record in records]
        assert acted == [False, False, True, True]
        assert gammas == pytest.approx([4.0 if early is None else 1.0] * 4 + [4.0] * 4)


@pytest.mark.parametrize("during, acting", [("prime", {"audio"}), ("outside", {"visual"}), ("all", {*TWO})])
def test_the_gate_is_each_modalitys_own(make, tiny_batch, during, acting):
    plain = one_step(make(coefficients="none"), tiny_batch())
    method = make(modulate_during=during)
    method.trace.load_state_dict({"history": {"audio": [1.0, 2.0], "visual": [2.0, 2.0]}})  # open, closed
    found = one_step(method, tiny_batch())
    changed = {name for name in TWO if not torch.equal(*(g[f"encoders.{name}.conv.weight"] for g in (plain, found)))}
    assert changed == acting
    noted = {name for name, factor in zip(TWO, method._notes["coefficient"][0], strict=True) if factor > 1}
    assert noted == acting


def test_coefficients_are_in_full_precision_under_autocast(make, tiny_batch):
    found = []
    for cast in (False, True):
        method, batch = make(fusion="sum"), tiny_batch(size=9)
        if cast:
            method.model.float()
            batch.inputs.update({name: x.float() for name, x in batch.inputs.items()})
        method.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            output = method.forward(batch)
            losses = method.losses(output)
        method.backward(losses)
        method.after_backward(output)
        if cast:
            assert output.unimodal["audio"].dtype == torch.bfloat16
            assert method._notes["coefficient"][0].dtype == torch.float32
        found.append(method.on_epoch_end(None)["coefficient"])
    assert found[1] == pytest.approx(found[0], abs=1e-2)


def test_a_frozen_encoder_is_left_alone(make, tiny_batch):
    method = make()
    method.model.freeze(["audio"])
    found = one_step(method, tiny_batch())
    assert all((grad is None) == name.startswith("encoders.audio.") for name, grad in found.items())


def test_one_modality_is_refused(make):
    with pytest.raises(ValueError, match="^ARL weighs modalities against each other: it needs two or more$"):
        make(("audio",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant, capsys):
    words = ["--method", "arl", "--variant", variant]
    args = vars(parse(words))
    assert VARIANTS[variant].items() <= args.items()
    assert (args["gamma"], args["temperature"], args["warmup_epochs"], args["clip_norm"]) == (4.0, 8.0, 6, 40.0)
    assert parse([*words, "--dataset", "demo"]).temperature == 4.0
    assert parse([*words, "--coefficients", "none"]).coefficients == "none"
    with pytest.raises(SystemExit):
        parse([*words, "--unimodal_loss", "split"])
    assert "--unimodal_loss does not apply" in capsys.readouterr().err
