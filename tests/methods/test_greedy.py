"""Greedy: the gates against their formula, the speeds against a literal count, curation against the definition."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import (
    assert_resumes_exactly,
    assert_same_gradients,
    count_backwards,
    gradients,
    host_reads,
    sgd,
    step,
)

from engine.parser import parse
from methods.greedy import Greedy
from methods.joint import Joint
from models.encoders import MLP, ConvNet, ResNet18
from models.mmtm import MMTM, Exchange

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
FLAGS = dict(curation="guided", epsilon=0.01, curation_steps=5, counting_epochs=0)


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="sum", seed=0, **changes):
        method = Greedy(make_args(**FLAGS | changes), tiny_model(modalities, fusion, seed))
        method.model.double()
        for p in method.model.exchange.parameters():  # biases that are not zero
            torch.nn.init.normal_(p)
        return method

    return make


def epochs_of(tiny_batch, modalities=TWO, epochs=3, steps=4):
    return [[tiny_batch(modalities, seed=10 * e + i) for i in range(steps)] for e in range(epochs)]


@pytest.mark.parametrize("shapes", [[(6, 3, 4), (6, 4, 2, 3)], [(6, 3, 5, 5), (12, 2, 3, 3), (6, 4, 2, 3, 3)]])
def test_gates_by_the_formula(shapes):
    # The second modality of the second case has two frames a clip, the third is a volume.
    torch.manual_seed(0)
    maps = {f"m{i}": torch.randn(shape, dtype=torch.float64) for i, shape in enumerate(shapes)}
    unit = MMTM({name: x.shape[1] for name, x in maps.items()}).double().eval()
    for p in unit.parameters():
        torch.nn.init.normal_(p)
    found = unit(maps, 6, None)
    assert unit.squeeze.out_features == sum(x.shape[1] for x in maps.values()) // 2
    for clip in range(6):
        clips = {name: x.reshape(6, -1, *x.shape[1:])[clip] for name, x in maps.items()}
        squeezed = torch.cat([x.transpose(0, 1).flatten(1).mean(dim=1) for x in clips.values()])
        hidden = (unit.squeeze.weight @ squeezed + unit.squeeze.bias).clamp(min=0)
        for name, x in clips.items():
            gate = 1 / (1 + torch.exp(-(unit.excite[name].weight @ hidden + unit.excite[name].bias)))
            ours = found[name].reshape(6, -1, *x.shape[1:])[clip]
            torch.testing.assert_close(ours, x * gate.view(1, -1, *(1,) * (x.ndim - 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoders", [(ConvNet(1), ConvNet(3, frames=True)), (ResNet18(1), ResNet18(3))])
def test_open_gates_leave_the_encoders_as_they_are(encoders):
    torch.manual_seed(0)
    encoders = torch.nn.ModuleDict(dict(zip(TWO, encoders, strict=True))).eval()
    exchange = Exchange(encoders).eval()
    gated_widths = tuple(unit.excite["audio"].out_features for unit in exchange.units)
    assert gated_widths == encoders["audio"].widths[1:]
    inputs = {"audio": torch.randn(2, 1, 40, 26), "visual": torch.randn(2, 4, 3, 32, 32)}
    with torch.no_grad():
        plain = {name: encoder(inputs[name]) for name, encoder in encoders.items()}
        gated = exchange(encoders, inputs)
        for unit in exchange.units:
            for excite in unit.excite.values():
                excite.weight.zero_()
                excite.bias.fill_(200.0)  # its sigmoid is 1, exactly
        opened = exchange(encoders, inputs)
    for name in TWO:
        assert torch.equal(opened[name], plain[name]) and not torch.allclose(gated[name], plain[name])


def test_averages_are_those_of_training_batches(make, tiny_batch):
    method = make()
    (unit,) = method.model.exchange.units
    seen, excite = [], unit.excite["visual"]
    excite.register_forward_hook(lambda module, args, output: seen.append(torch.sigmoid(output).mean(dim=0)))
    for i in range(3):
        step(method, tiny_batch(seed=i))
    expected = torch.stack(seen).mean(dim=0)
    torch.testing.assert_close(unit.average_visual, expected.detach(), rtol=1e-12, atol=0)
    assert not torch.allclose(unit.average_visual, unit.average_audio)
    method.model.eval()
    method.forward(tiny_batch(seed=9))
    torch.testing.assert_close(unit.average_visual, expected.detach(), rtol=1e-12, atol=0)


def literal_speeds(method):
    """(main, bypass) of every modality, tensor by tensor and entry by entry, by their names."""
    found = []
    for kind in ("main", "bypass"):
        for m in method.model.modalities:
            grads = weights = 0.0
            for name, p in method.model.named_parameters():
                main = name.startswith((f"encoders.{m}.", f"fusion.heads.{m}."))
                bypass = name.startswith("exchange.") and (".squeeze." in name or f".excite.{m}." in name)
                if main if kind == "main" else bypass:
                    grads += sum(value**2 for value in p.grad.flatten().tolist())
                    weights += sum(value**2 for value in p.flatten().tolist())
            found.append(grads / weights)
    half = len(found) // 2
    return found[:half], found[half:]


@pytest.mark.parametrize("modalities, fusion", [(TWO, "sum"), (THREE, "sum"), (TWO, "film"), (THREE, "concat")])
def test_speeds_by_the_definition(make, tiny_batch, modalities, fusion):
    method = make(modalities, fusion, epsilon=math.inf)
    sums = [[0.0] * len(modalities), [0.0] * len(modalities)]
    method.on_epoch_start(None)
    for i in range(3):
        step(method, tiny_batch(modalities, seed=i))
        for total, values in zip(sums, literal_speeds(method), strict=True):
            total[:] = [a + b for a, b in zip(total, values, strict=True)]
    torch.testing.assert_close(method.speeds, torch.tensor(sums, dtype=torch.float64), rtol=1e-10, atol=0)
    ratio = [math.log10(bypass / main) for main, bypass in zip(*sums, strict=True)]
    assert method.ratio().tolist() == pytest.approx(ratio)
    assert method.on_epoch_end(None)["speed_ratio"] == pytest.approx(dict(zip(modalities, ratio, strict=True)))


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_loss_is_the_sum_of_the_branches_and_prediction_their_mean(make, tiny_batch, modalities):
    method, batch = make(modalities), tiny_batch(modalities)
    output, losses = step(method, batch)
    literal = copy.deepcopy(method.model).train()
    features = literal.exchange(literal.encoders, batch.inputs)
    logits = {m: literal.fusion.heads[m](features[m]) for m in modalities}
    loss = sum(F.cross_entropy(z, batch.target) for z in logits.values())
    loss.backward()
    torch.testing.assert_close(losses["loss"], loss)
    torch.testing.assert_close(output.logits, sum(logits.values()) / len(modalities))
    assert_same_gradients(gradients(method.model), gradients(literal))


def test_other_fusions_train_the_fused_logits(make, tiny_batch):
    method, batch = make(fusion="concat"), tiny_batch()
    output, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], F.cross_entropy(output.logits, batch.target))
    torch.testing.assert_close(output.logits, method.model.fuse(output.features))


def curate(method, *curated):
    method.curated = lambda: torch.tensor(curated)


def test_in_curation_one_branch_learns_without_the_other(make, tiny_batch):
    method, batch = make(), tiny_batch()
    step(method, tiny_batch(seed=1))
    curate(method, True, False)
    step(method, batch)
    found = gradients(method.model)
    assert not any(grad.any() for name, grad in found.items() if ".excite.audio." in name)
    assert all(grad.any() for name, grad in found.items() if ".excite.visual." in name)

    (unit,) = method.model.exchange.units
    unit._update = lambda gates: None  # through the average alone the other branch still reaches this one
    mixed = copy.deepcopy(batch)
    mixed.inputs["visual"] = tiny_batch(seed=5).inputs["visual"]
    one, other = method.forward(batch).unimodal, method.forward(mixed).unimodal
    assert torch.equal(one["audio"], other["audio"]) and not torch.allclose(one["visual"], other["visual"])
    encoder, average = method.model.encoders["audio"], unit.average_audio.view(1, -1, 1, 1)
    first, second = encoder.stages
    alone = encoder.pool(second(first(batch.inputs["audio"])) * average, len(batch))
    torch.testing.assert_close(one["audio"], method.model.fusion.heads["audio"](alone))

    method.model.eval()  # every sample has its own gate again
    one, other = method.forward(batch).unimodal, method.forward(mixed).unimodal
    assert not torch.allclose(one["audio"], other["audio"])


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_rhythm_of_curation(make, tiny_batch, modalities):
    """Against the definition, step by step, with the speeds that the method has counted."""
    method = make(modalities, curation_steps=3, counting_epochs=1, epsilon=0.05)
    left, cared, entered, frozen = 0, None, 0, 0
    optimizer = sgd(method.model)
    for epoch in range(3):
        method.on_epoch_start(None)
        for i in range(6):
            before = method.speeds.clone()
            expected = [left > 0 and m == cared for m in range(len(modalities))]
            step(method, tiny_batch(modalities, seed=10 * epoch + i))
            assert method.model.exchange.curated.tolist() == expected
            if left > 0:
                assert torch.equal(method.speeds, before)
                left, frozen = left - 1, frozen + 1
            else:
                main, bypass = literal_speeds(method)
                step_speeds = torch.tensor([main, bypass], dtype=torch.float64)
                torch.testing.assert_close(method.speeds, before + step_speeds, rtol=1e-10, atol=0)
                ratio = [math.log10(b / m) for m, b in zip(*method.speeds.tolist(), strict=True)]
                if epoch >= 1 and max(ratio) - min(ratio) > 0.05:
                    left, cared, entered = 3, ratio.index(max(ratio)), entered + 1
            optimizer.step()
        shares = method.on_epoch_end(None)["curated"]
        assert epoch > 0 or set(shares.values()) == {0.0}
    assert entered > 1 and frozen > 3  # otherwise nothing has been tested


@pytest.mark.parametrize("modalities, fusion", [(TWO, "sum"), (THREE, "concat")])
def test_without_reason_to_curate_it_is_the_mmtm_network(make, train, tiny_batch, modalities, fusion):
    epochs = epochs_of(tiny_batch, modalities)
    states = {}
    for name, flags in {
        "none": dict(curation="none"),
        "epsilon": dict(epsilon=math.inf),
        "counting": dict(counting_epochs=9),
        "window": dict(modulate_during="prime", threshold=math.inf),
        "guided": {},
    }.items():
        method = make(modalities, fusion, **flags)
        train(method, sgd(method.model), epochs)
        states[name] = method.model.state_dict()
    same = {name: all(torch.equal(v, states["none"][k]) for k, v in state.items()) for name, state in states.items()}
    assert same == {"none": True, "epsilon": True, "counting": True, "window": True, "guided": False}


def test_with_open_gates_it_is_joint_training(make, tiny_model, train, tiny_batch, make_args):
    epochs, models = epochs_of(tiny_batch), []
    for method in (make(fusion="concat", curation="none"), Joint(make_args(), tiny_model())):
        if method.model.exchange:
            for name, p in method.model.exchange.named_parameters():
                torch.nn.init.constant_(p, 200.0 if name.endswith("bias") else 0.0)
        train(method, sgd(method.model), epochs)
        models.append(method.model.state_dict())
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())


def test_random_curation_draws_each_modality_and_none_as_often(make):
    method = make(THREE, curation="random")
    method.on_epoch_start(None)
    torch.manual_seed(0)
    drawn = torch.stack([method.curated() for _ in range(4000)]).double()
    assert drawn.sum(dim=1).max() == 1
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.25] * 3, abs=0.03)


def test_random_curation_counts_the_speeds_of_every_step(make, train, tiny_batch):
    """No curation by the speeds is ever under way in it, in which they would stand still."""
    speeds = []
    for curation in ("random", "guided"):
        method, batches = make(curation=curation, epsilon=0.0, curation_steps=2), [tiny_batch(seed=i) for i in range(4)]
        step_speeds, counted = method.step_speeds, []
        method.step_speeds = lambda made=step_speeds, counted=counted: counted.append(made()) or counted[-1]
        train(method, sgd(method.model), [batches] * 2)
        speeds.append((method.speeds, sum(counted)))
    (random, every), (guided, beyond) = speeds
    torch.testing.assert_close(random, every, rtol=1e-12, atol=0)
    assert (guided < 0.9 * beyond).any()


@pytest.mark.parametrize("modalities, fusion", [(TWO, "sum"), (THREE, "concat")])
def test_it_resumes_exactly(make, train, tiny_batch, modalities, fusion):
    flags = dict(curation_steps=2, epsilon=0.0)  # of 4 steps an epoch: a curation is under way at the first one's end
    assert_resumes_exactly(lambda: make(modalities, fusion, **flags), train, epochs_of(tiny_batch, modalities))


def test_one_forward_and_one_backward_a_step_and_nothing_read_back(make, tiny_batch, monkeypatch):
    method, batch = make(), tiny_batch()
    sizes = {name: [] for name in TWO}
    for name, encoder in method.model.encoders.items():
        encoder.conv.register_forward_hook(lambda module, args, output, name=name: sizes[name].append(len(args[0])))
    calls = count_backwards(monkeypatch)
    method.on_epoch_start(None)
    reads = host_reads(monkeypatch)
    step(method, batch)
    step(method, batch)
    assert sizes == {"audio": [6, 6], "visual": [6, 6]} and calls == {"backward": 2, "grad": 0} and reads == []


def test_encoders_without_stages_and_a_single_one_are_refused(tiny_model, make_args):
    model = tiny_model()
    model.encoders["visual"] = torch.nn.Flatten()
    with pytest.raises(ValueError, match="visual has none"):
        Greedy(make_args(**FLAGS), model)
    with pytest.raises(ValueError, match="two or more"):
        Greedy(make_args(**FLAGS), tiny_model(("audio",)))
    with pytest.raises(ValueError, match="1 of audio, 1 of visual: .*--dataset features, --encoder mlp --layers 2"):
        Exchange({name: MLP(3, 4, layers=1) for name in ("audio", "visual")})
    Exchange({name: MLP(3, 4, layers=2) for name in ("audio", "visual")})


def test_defaults_and_the_refused_loss(capsys):
    args = parse(["--dataset", "CREMAD", "--method", "greedy"])
    assert (args.fusion, args.epsilon, args.curation_steps, args.counting_epochs) == ("sum", 0.01, 5, 1)
    with pytest.raises(SystemExit):
        parse(["--dataset", "CREMAD", "--method", "greedy", "--unimodal_loss", "split"])
    assert "greedy defines its own losses" in capsys.readouterr().err
