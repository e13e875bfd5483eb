"""CML against its hinges taken one sample and one pair at a time, and what each rule counts."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, sgd, step

from engine.parser import parse
from methods.cml import CML, VARIANTS
from methods.joint import Joint
from models.multimodal import Output

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, fusion) for fusion in ("concat", "sum", "film", "gated")] + [(THREE, "concat"), (THREE, "sum")]


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", variant="paper", seed=0, **flags):
        return CML(make_args(**VARIANTS[variant] | flags), tiny_model(modalities, fusion, seed))

    return make


def enlarge(model):
    """Heads whose confidences differ enough for some samples to violate the order, and some not to."""
    with torch.no_grad():
        for p in model.fusion.parameters():
            p.add_(torch.randn_like(p))


def slow(model, features, target, orders, gate="none"):
    """(sum of hinges, violations by removed modality, pairs by it) with one pass of the head for a sample's subset.

    `orders` gives each sample's pairs: (whom T lacks, whom S lacks).
    """
    total, violated, pairs = 0, dict.fromkeys(features, 0), dict.fromkeys(features, 0)

    def look(i, absent):
        given = {
            name: torch.zeros_like(f[i : i + 1]) if name in absent else f[i : i + 1] for name, f in features.items()
        }
        p = model.fuse(given)[0].softmax(0)
        return p.max(), int(p.argmax()) == int(target[i])

    for i, chain in enumerate(orders):
        for small, large in chain:
            (conf_small, small_right), (conf_large, large_right) = look(i, small), look(i, large)
            (removed,) = small - large
            pairs[removed] += 1
            violated[removed] += bool(conf_small > conf_large)
            counts = {"none": True, "exempt": not small_right or large_right, "right": large_right}[gate]
            if counts and conf_small > conf_large:
                total = total + conf_small - conf_large
    return total, violated, pairs


def leave_one_out(names, size):
    return [[({name}, set()) for name in names]] * size


def chains(method, size):
    """Each sample's pairs, from the masks of the last draw."""
    removed, absent = method.drawn
    names = method.model.modalities
    found = []
    for i in range(size):
        chain, gone = [], set()
        for k in range(len(removed)):
            (name,) = [n for n, r in zip(names, removed[k, :, i], strict=True) if r]
            small = {n for n, a in zip(names, absent[k, :, i], strict=True) if a}
            assert small == gone | {name} and name not in gone
            chain.append((small, gone))
            gone = small
        found.append(chain)
    return found


def watch_draws(method):
    real = method.removals

    def removals(target):
        method.drawn = real(target)
        return method.drawn

    method.removals = removals


@pytest.mark.parametrize("gate", ["none", "exempt", "right"])
@pytest.mark.parametrize("subsets", ["leave_one_out", "chain"])
@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_loss_gradients_and_violations_are_those_of_single_samples(make, tiny_batch, modalities, fusion, subsets, gate):
    torch.manual_seed(7)
    flags = dict(subsets=subsets, gate=gate, calibration_weight=0.7)
    method, batch = make(modalities, fusion, **flags), tiny_batch(modalities, size=9)
    enlarge(method.model)
    watch_draws(method)
    literal = copy.deepcopy(method.model).train()
    _, losses = step(method, batch)
    orders = leave_one_out(modalities, 9) if subsets == "leave_one_out" else chains(method, 9)
    features = literal.encode(batch.inputs)
    total, violated, pairs = slow(literal, features, batch.target, orders, gate)
    loss = F.cross_entropy(literal.fuse(features), batch.target) + 0.7 * total / 9
    loss.backward()
    torch.testing.assert_close(losses["loss"], loss)
    torch.testing.assert_close(losses["loss_calibration"] + losses["loss_joint"], losses["loss"])
    assert_same_gradients(gradients(method.model), gradients(literal))
    record = method.on_epoch_end(None)["violation"]
    assert record == pytest.approx({name: violated[name] / max(pairs[name], 1) for name in modalities})
    assert 0 < sum(violated.values()) < sum(pairs.values())  # otherwise nothing has been compared


@pytest.mark.parametrize("unimodal_loss", ["none", "split"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_without_weight_it_is_joint_training_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train, variant, unimodal_loss
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    neutral = make(variant=variant, calibration_weight=0.0, partial_loss=0.0, unimodal_loss=unimodal_loss)
    joint = Joint(make_args(unimodal_loss=unimodal_loss), tiny_model())
    records = [train(method, sgd(method.model), epochs) for method in (neutral, joint)]
    states = neutral.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert records[0][-1]["fisher_trace"] == records[1][-1]["fisher_trace"]


def judged(method, full, *partial, target):
    """The method's penalty for logits whose first class has these probabilities; of two classes."""

    def logits(probabilities):
        return torch.tensor([[math.log(p), math.log(1 - p)] for p in probabilities], dtype=torch.float64)

    method._partial = [logits(p) for p in partial]
    return method.calibration(Output(logits(full), {}, {}, torch.tensor(target)))


def test_the_hinge_is_per_sample(make):
    # One sample is 0.4 surer without a modality, ten are 0.4 less sure: their margins do not pay for it.
    full, partial = [0.55] + [0.95] * 10, [0.95] + [0.55] * 10
    target, never = [0] * 11, [0.5] * 11
    found = {
        name: judged(make(hinge=name), full, partial, never, target=target).item()
        for name in ("sample", "sum", "batch")
    }
    assert found == pytest.approx({"sample": 0.4 / 11, "sum": 0.4, "batch": 0.0})
    # Where all differences are of one sign, nothing cancels, and the sum is the sum.
    risen = [0.95] * 11
    same = [judged(make(hinge=name), [0.55] * 11, risen, never, target=target).item() for name in ("sum", "batch")]
    assert same == pytest.approx([4.4, 4.4])


def test_who_is_exempt(make):
    never = [0.5] * 4
    # (T right, S right): both, T alone, S alone, none; the confidence rises by 0.1, 0.2, 0.3, 0.05.
    full, partial, target = [0.6, 0.3, 0.6, 0.6], [0.7, 0.9, 0.1, 0.65], [0, 0, 0, 1]
    found = {
        gate: judged(make(gate=gate), full, partial, never, target=target).item()
        for gate in ("none", "exempt", "right")
    }
    assert found == pytest.approx({"none": 0.65 / 4, "exempt": 0.45 / 4, "right": 0.4 / 4})
    right = [judged(make(gate=gate), [0.6] * 4, [0.7] * 4, never, target=[0] * 4).item() for gate in found]
    assert right == pytest.approx([0.1] * 3)


def test_it_lies_between_zero_and_its_bound_and_knows_the_scale_of_logits(make, tiny_batch):
    method, batch = make(THREE), tiny_batch(THREE)
    with torch.no_grad():
        output = method.forward(batch)
        penalty = method.calibration(output)
        assert 0 <= penalty <= 3 * (1 - 1 / 3)
        method._partial = [z + 5 for z in method._partial]
        output.logits = output.logits - 7
        torch.testing.assert_close(method.calibration(output), penalty)
        for p in method.model.fusion.parameters():
            p.zero_()
        assert method.calibration(method.forward(batch)) == 0


def test_without_a_violation_nothing_is_penalised_and_only_violating_samples_are_pulled(make):
    method = make()
    full, alone = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    method._partial = [alone, torch.zeros_like(alone)]
    output = Output(full, {}, {}, torch.zeros(6, dtype=torch.long))
    (pull,) = torch.autograd.grad(method.calibration(output), full)
    violating = alone.softmax(1).max(1).values > full.softmax(1).max(1).values
    assert 0 < violating.sum() < 6
    assert torch.equal(pull.abs().sum(dim=1) > 0, violating)
    method._partial = [full / 9, full / 2]
    penalty = method.calibration(output)
    assert penalty == 0 and not torch.autograd.grad(penalty, full)[0].any()


def test_what_is_taken_away_gets_no_gradient_by_what_is_left(make, tiny_batch):
    method = make(THREE)
    features = {n: torch.randn(4, d).double().requires_grad_() for n, d in method.model.dims.items()}
    method.model.train()
    method.model.encode = lambda inputs: features
    method.forward(tiny_batch(THREE, size=4))
    for name, logits in zip(THREE, method._partial, strict=True):
        grads = torch.autograd.grad(logits.sum(), list(features.values()), retain_graph=True)
        reached = {other: bool(grad.any()) for other, grad in zip(THREE, grads, strict=True)}
        assert reached == {other: other != name for other in THREE}


def test_a_batch_twice_is_the_batch(make, tiny_batch):
    method, batch = make(), tiny_batch()
    features = {n: torch.randn(4, d).double() for n, d in method.model.dims.items()}
    target, found = torch.tensor([0, 1, 2, 0]), []
    method.model.train()
    for times in (1, 2):
        method.model.encode = lambda inputs, times=times: {n: f.repeat(times, 1) for n, f in features.items()}
        batch.target = target.repeat(times)
        found.append(method.losses(method.forward(batch))["loss_calibration"])
    torch.testing.assert_close(*found)


def test_in_a_chain_everyone_is_as_often_the_first(make):
    method, target = make(THREE, subsets="chain"), torch.zeros(6000, dtype=torch.long)
    torch.manual_seed(7)
    removed, absent = method.removals(target)
    assert removed.shape == absent.shape == (2, 3, 6000)
    assert torch.equal(removed.sum(dim=1), torch.ones(2, 6000)) and torch.equal(
        absent[-1].sum(dim=0), torch.full((6000,), 2)
    )
    share = removed.double().mean(dim=2)
    assert ((share - 1 / 3).abs() < 0.03).all()
    torch.manual_seed(7)
    assert torch.equal(method.removals(target)[0], removed)


def test_one_order_serves_an_epoch_in_the_benchmarks_version(make):
    method, target = make(THREE, variant="benchmark"), torch.zeros(5, dtype=torch.long)
    orders = []
    for epoch in range(8):
        method.trace.load_state_dict({"history": {name: [1.0] * epoch for name in THREE}})
        removed, _ = method.removals(target)
        assert torch.equal(removed, removed[:, :, :1].expand(-1, -1, 5))
        assert torch.equal(method.removals(target)[0], removed)
        orders.append(removed[0, :, 0].tolist())
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_partial_inputs_are_classified_in_the_public_code(make, tiny_batch, modalities):
    method, batch = make(modalities, variant="official"), tiny_batch(modalities)
    output, losses = step(method, batch)
    every = [F.cross_entropy(z, output.target) for z in (output.logits, *method._partial)]
    assert len(every) == len(modalities)
    torch.testing.assert_close(losses["loss"], sum(every) / len(every) + losses["loss_calibration"])


def test_confidences_are_in_full_precision_under_autocast(make, tiny_batch):
    method = make()
    full = torch.tensor([[9.0, 0.0, 0.0]]).bfloat16()
    method._partial = [full + torch.tensor([[0.25, 0.0, 0.0]]).bfloat16(), full]
    penalty = method.calibration(Output(full, {}, {}, torch.tensor([0])))
    assert penalty.dtype == torch.float32 and penalty > 0  # both confidences are 1 in bfloat16


def test_one_modality_is_refused(make):
    with pytest.raises(ValueError, match="^CML weighs modalities against each other: it needs two or more$"):
        make(("audio",))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags(variant):
    args = vars(parse(["--method", "cml", "--variant", variant]))
    assert VARIANTS[variant].items() <= args.items()
    own = parse(["--method", "cml", "--variant", variant, "--calibration_weight", "5"])
    assert own.calibration_weight == 5 and own.gate == VARIANTS[variant]["gate"]
