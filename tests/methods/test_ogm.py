"""OGM and OGM-GE against hand-computed coefficients and against the modulated gradients, tensor by tensor."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.coefficients import literal_coefficients, score
from helpers.steps import one_step
from helpers.tiny import CLASSES

from engine.parser import parse
from methods.joint import Joint
from methods.modulation import ratio_to_others
from methods.ogm import OGM, OGMGE, coefficients
from models.encoders import Transformer
from models.multimodal import build_model

FLAGS = dict(alpha=0.8, noise=0.0, modulation_starts=0, modulation_ends=50)


def test_ratio_of_two_and_of_three():
    assert ratio_to_others(score(3.0, 2.0)).tolist() == pytest.approx([1.5, 2 / 3])
    assert ratio_to_others(score(3.0, 2.0, 1.0)).tolist() == pytest.approx([2.0, 1.0, 0.4])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.7])
def test_a_tie_puts_no_one_ahead(count, value):
    assert ratio_to_others(score(*[value] * count)).max() <= 1
    assert coefficients(score(*[value] * count), 0.8).tolist() == [1.0] * count


def test_coefficients_by_hand():
    # tanh(0.8 * 1.5) = 0.8336546; of three, tanh(0.8 * 2) = 0.9216686, and a ratio of exactly 1 is no lead.
    assert coefficients(score(3.0, 2.0), 0.8).tolist() == pytest.approx([0.1663454, 1.0], abs=1e-7)
    assert coefficients(score(2.0, 3.0), 0.8).tolist() == pytest.approx([1.0, 0.1663454], abs=1e-7)
    assert coefficients(score(3.0, 2.0, 1.0), 0.8).tolist() == pytest.approx([0.0783314, 1.0, 1.0], abs=1e-7)
    # Two may be ahead of the mean of the others: 3 / 2 and 2.9 / 2.05.
    two = coefficients(score(3.0, 2.9, 1.1), 0.1)
    assert two.tolist() == pytest.approx([1 - math.tanh(0.1 * 3 / 2), 1 - math.tanh(0.1 * 2.9 / 2.05), 1.0])


def test_a_modality_without_any_score_leaves_the_coefficients_finite():
    assert coefficients(score(1.0, 0.0), 0.0).tolist() == [1.0, 1.0]
    assert coefficients(score(1.0, 0.0), 0.8).tolist() == [0.0, 1.0]
    assert coefficients(score(0.0, 0.0), 0.8).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_the_convolutions_of_the_leader_are_damped(tiny_model, tiny_batch, make_args, fusion, seed):
    model, batch = tiny_model(fusion=fusion, seed=seed), tiny_batch(seed=seed)
    k = literal_coefficients(model, batch, 0.8)
    plain = one_step(Joint(make_args(), copy.deepcopy(model)), batch)
    damped = one_step(OGM(make_args(**FLAGS), model), batch)
    for name, grad in plain.items():
        if name.endswith("conv.weight"):
            torch.testing.assert_close(damped[name], k[name.split(".")[1]] * grad, rtol=1e-10, atol=0)
        else:
            assert torch.equal(damped[name], grad), name
    assert min(k.values()) < 0.35


def test_damped_gradient_is_that_of_autograd_on_a_scaled_loss(tiny_model, tiny_batch, make_args):
    # Of one encoder, k g is the gradient of k L: the same weights after the step, from autograd alone.
    model, batch = tiny_model(), tiny_batch()
    k, copied = literal_coefficients(model, batch, 0.8), copy.deepcopy(model).train()
    loss = F.cross_entropy(copied.fuse(copied.encode(batch.inputs)), batch.target)
    weights = {name: encoder.conv.weight for name, encoder in copied.encoders.items()}
    wanted = {name: torch.autograd.grad(k[name] * loss, w, retain_graph=True)[0] for name, w in weights.items()}
    damped = one_step(OGM(make_args(**FLAGS), model), batch)
    for name, grad in wanted.items():
        torch.testing.assert_close(damped[f"encoders.{name}.conv.weight"], grad, rtol=1e-10, atol=1e-14)


def test_three_modalities(tiny_model, tiny_batch, make_args):
    names = ("audio", "visual", "text")
    model, batch = tiny_model(names), tiny_batch(names)
    plain = one_step(Joint(make_args(), copy.deepcopy(model)), batch)
    method = OGM(make_args(**FLAGS), model)
    sums = score(2.0, 1.5, 1.1)
    method.performance = lambda output: sums
    damped = one_step(method, batch)
    for name, factor in zip(names, (1 - math.tanh(0.8 * 2 / 1.3), 1.0, 1.0), strict=True):
        key = f"encoders.{name}.conv.weight"
        torch.testing.assert_close(damped[key], factor * plain[key], rtol=1e-12, atol=0)


def test_of_an_encoder_without_convolutions_every_matrix_is_damped(tiny_batch, make_args):
    names = ("vision", "audio")
    model = build_model({name: partial(Transformer, channels=5, dim=10) for name in names}, "concat", CLASSES, 0)
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            module.p = module.dropout = 0.0
    batch = tiny_batch(names)
    batch.inputs = {name: x.squeeze(1) for name, x in batch.inputs.items()}  # (B, T, channels)
    k = literal_coefficients(model, batch, 0.8)
    plain = one_step(Joint(make_args(), copy.deepcopy(model)), batch)
    damped = one_step(OGM(make_args(**FLAGS), model), batch)
    kinds = set()
    for name, grad in plain.items():
        matrix = name.startswith("encoders.") and grad.ndim >= 2
        kinds.add((grad.ndim, matrix))
        factor = k[name.split(".")[1]] if matrix else 1.0
        torch.testing.assert_close(damped[name], factor * grad, rtol=1e-10, atol=0)
    assert kinds == {(3, True), (2, True), (2, False), (1, False)}
    assert min(k.values()) < 0.35


class Wide(nn.Module):
    """Two convolutions of many weights, with gradients of very different size, and one linear layer."""

    dim = 4

    def __init__(self):
        super().__init__()
        self.first, self.second, self.linear = nn.Conv2d(1, 64, 7), nn.Conv2d(64, 32, 3), nn.Linear(4, 4)


def test_noise_has_each_gradients_own_deviation_and_reaches_all_encoders(tiny_model, make_args):
    model = tiny_model()
    model.encoders.update({"audio": Wide().double(), "visual": Wide().double()})
    method = OGMGE(make_args(**FLAGS | {"noise": 1.0}), model)
    method.performance = lambda output: score(3.0, 2.0)
    torch.manual_seed(0)
    before = {}
    for i, (name, p) in enumerate(model.named_parameters()):
        p.grad = 10.0**-i * (torch.randn_like(p) + 5)
        before[name] = p.grad.clone()
    method.after_backward(None)
    noises = []
    for name, p in model.named_parameters():
        if p.ndim != 4:
            assert torch.equal(p.grad, before[name])
            continue
        noise = p.grad - before[name] * (0.1663454 if "audio" in name else 1.0)
        # 3136 entries and more: the estimate of a deviation is good to 1.3 %, that of a mean to 1.8 % of it.
        sigma = before[name].std()
        assert noise.std().item() == pytest.approx(sigma.item(), rel=0.06)
        assert abs(noise.mean()) < 0.08 * sigma
        noises.append(noise.flatten()[:3136] / sigma)
    correlation = torch.corrcoef(torch.stack(noises)) - torch.eye(len(noises))
    assert len(noises) == 4 and correlation.abs().max() < 0.1


def test_noise_of_a_weight_with_one_entry_is_none(tiny_model, make_args):
    model = tiny_model()
    model.encoders["audio"].conv = nn.Conv2d(1, 1, 1, bias=False).double()
    method = OGMGE(make_args(**FLAGS | {"noise": 1.0}), model)
    method.performance = lambda output: score(2.0, 3.0)
    model.encoders["audio"].conv.weight.grad = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64)
    method.after_backward(None)
    assert model.encoders["audio"].conv.weight.grad.item() == 7.0


@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
def test_alpha_zero_without_noise_is_joint_training_bit_for_bit(
    tiny_model, tiny_batch, make_args, train, unimodal_loss
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    finals = []
    for method_class, flags in ((Joint, {}), (OGM, FLAGS | {"alpha": 0.0}), (OGM, FLAGS)):
        model = tiny_model()
        method = method_class(make_args(unimodal_loss=unimodal_loss, **flags), model)
        model.double()
        train(method, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4), epochs)
        finals.append((model.state_dict(), method.trace.history))
    (joint, joint_traces), (neutral, traces), (damped, _) = finals
    assert all(torch.equal(joint[name], neutral[name]) for name in joint)
    assert joint_traces == traces
    assert not all(torch.equal(joint[name], damped[name]) for name in joint)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_modulation_keeps_to_its_epochs_and_records_them(tiny_model, tiny_batch, make_args, train, noise):
    model, batches = tiny_model(), [tiny_batch()] * 2
    flags = FLAGS | {"modulation_starts": 1, "modulation_ends": 2, "noise": noise}
    method, seen = OGM(make_args(**flags), model), []
    real = method._modulate
    method._modulate = lambda *given: (seen.append(method.window.epoch), real(*given))
    records = train(method, torch.optim.SGD(model.parameters(), lr=0.1), [batches] * 4)
    assert seen == [1] * 4 + [2] * 4  # two steps, two encoders
    lowest = [min(record["coefficient"].values()) for record in records]
    assert [k < 1 for k in lowest] == [False, True, True, False]
    assert all(max(record["coefficient"].values()) == 1 for record in (records[0], records[3]))


@pytest.mark.parametrize("during, audio_acts", [("prime", True), ("outside", False), ("all", True)])
def test_modulate_during_gates_each_modality_by_its_window(tiny_model, tiny_batch, make_args, during, audio_acts):
    model, batch = tiny_model(), tiny_batch()
    plain = one_step(Joint(make_args(), copy.deepcopy(model)), batch)
    method = OGM(make_args(**FLAGS, modulate_during=during), model)
    method.trace.load_state_dict({"history": {"audio": [1.0, 2.0], "visual": [2.0, 2.0]}})  # open, closed
    acts = {"audio": audio_acts, "visual": during != "prime"}
    for leader, sums in (("audio", score(3.0, 2.0)), ("visual", score(2.0, 3.0))):
        method.performance = lambda output, sums=sums: sums
        damped = one_step(method, batch)
        for name in model.modalities:
            key = f"encoders.{name}.conv.weight"
            factor = 0.1663454 if name == leader and acts[name] else 1.0
            torch.testing.assert_close(damped[key], factor * plain[key], rtol=1e-6, atol=0)


def test_the_trace_is_that_of_the_gradients_before(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(), tiny_batch()
    joint, method = Joint(make_args(), copy.deepcopy(model)), OGM(make_args(**FLAGS), model)
    one_step(joint, batch), one_step(method, batch)
    assert joint.on_epoch_end(None)["fisher_trace"] == method.on_epoch_end(None)["fisher_trace"]


def test_frozen_encoder_is_left_alone(tiny_model, tiny_batch, make_args):
    model = tiny_model()
    model.encoders["audio"].requires_grad_(False)
    method, batch = OGM(make_args(**FLAGS | {"noise": 1.0}), model), tiny_batch()
    output = method.forward(batch)
    method.backward(method.losses(output))
    method.after_backward(output)
    assert all(p.grad is None for p in model.encoders["audio"].parameters())


def test_what_is_not_defined_is_refused(tiny_model, make_args):
    with pytest.raises(ValueError, match="two or more"):
        OGM(make_args(**FLAGS), tiny_model(("audio",)))
    model = tiny_model()
    model.encoders["visual"] = nn.LayerNorm(3)  # vectors only
    with pytest.raises(ValueError, match="visual"):
        OGM(make_args(**FLAGS), model)


def test_defaults():
    args = {name: parse(["--method", name]) for name in ("ogm", "ogm_ge")}
    for name, noise in (("ogm", 0.0), ("ogm_ge", 1.0)):
        assert (args[name].alpha, args[name].noise) == (0.8, noise)
        assert (args[name].modulation_starts, args[name].modulation_ends) == (0, 50)
        assert args[name].modulate_during == "all" and args[name].tag == "default"
    assert parse(["--method", "ogm", "--dataset", "demo"]).alpha == 0.1
    assert parse(["--method", "ogm_ge", "--noise", "0"]).noise == 0
