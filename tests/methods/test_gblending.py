"""Gradient-Blending: the weights by hand, what an estimate leaves alone, and the blended loss beside joint training."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import TinyData

from dataset.loader import make_loader
from engine.parser import parse
from engine.train import train_epoch
from methods.gblending import GBlending, blend
from methods.joint import Joint

PAIR, THREE = ("audio", "visual"), ("audio", "visual", "text")


@pytest.fixture
def begin(tiny_model, tiny_run, make_args):
    """begin(modalities, fusion, **flags): a method and its run, with a withheld share and the plain training split."""

    def make(modalities=PAIR, fusion="concat", **flags):
        args = make_args(**dict(super_epoch=2, estimate_epochs=1, held_out=0.1, epochs=4) | flags)
        model = tiny_model(modalities, fusion)
        method = GBlending(args, model)
        model.double()  # its heads
        run = tiny_run(model, args, modalities, count=12)
        run.plain, run.held_out = TinyData(modalities, 12), TinyData(modalities, 9, seed=1)
        return method, run

    return make


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_weights_by_hand():
    # 0.4 / 0.2^2 = 10, 0.1 / 0.1^2 = 10, 0.5 / 0.5^2 = 2
    assert blend(numbers(0.4, 0.1, 0.5), numbers(0.2, 0.1, 0.5)).tolist() == pytest.approx([10 / 22, 10 / 22, 2 / 22])


def test_a_task_that_does_not_gain_weighs_nothing():
    assert blend(numbers(0.4, -0.1, math.nan), numbers(0.2, 0.1, 0.5)).tolist() == [1, 0, 0]
    assert blend(numbers(0.4, -math.inf), numbers(0.2, math.nan)).tolist() == [1, 0]


def test_overfitting_has_a_floor():
    # Gains of 3 and 1 whose gaps did not grow: as though both had grown by 1e-4.
    assert blend(numbers(3, 1), numbers(-0.5, 1e-9)).tolist() == pytest.approx([0.75, 0.25])
    assert blend(numbers(3, 1), numbers(1e-4, 2e-4)).tolist() == pytest.approx([12 / 13, 1 / 13])


@pytest.mark.parametrize("gain", [(0.3, 0.3, 0.3), (0.0, 0.0, 0.0), (-1.0, -2.0, -3.0), (math.nan,) * 3])
def test_equal_tasks_and_tasks_that_do_not_generalise_weigh_the_same(gain):
    assert blend(numbers(*gain), numbers(0.2, 0.2, 0.2)).tolist() == pytest.approx([1 / 3] * 3, rel=1e-12)


def literal_estimate(run, modalities, rates):
    """The weights from the definition, for epochs of these learning rates: models, optimizer and means by hand."""

    def logits(model, inputs, task):
        if task == "fused":
            return model.fusion({name: model.encoders[name](inputs[name]) for name in modalities})
        return model.heads[task](model.encoders[task](inputs[task]))

    def mean_loss(model, data, task):
        model.eval()
        samples = [data[i] for i in range(len(data))]
        inputs = {name: torch.stack([sample[0][name] for sample in samples]) for name in modalities}
        z = logits(model, inputs, task)
        return sum(-z[i].log_softmax(0)[sample[1]].item() for i, sample in enumerate(samples)) / len(samples)

    weights = {}
    for task in ("fused", *modalities):
        model = copy.deepcopy(run.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        train, held_out = mean_loss(model, run.plain, task), mean_loss(model, run.held_out, task)
        for epoch, rate in enumerate(rates, start=run.epoch):
            optimizer.param_groups[0]["lr"] = rate
            model.train()
            for batch in make_loader(run.train, 4, 0, seed=0, epoch=epoch, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(logits(model, batch.inputs, task), batch.target).backward()
                optimizer.step()
        train_after, held_out_after = mean_loss(model, run.plain, task), mean_loss(model, run.held_out, task)
        overfitting = max((held_out_after - train_after) - (held_out - train), 1e-4)
        weights[task] = max(held_out - held_out_after, 0) / overfitting**2
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


# Of epochs 1 and 2: the rates that the schedule gives, warm-up over four epochs, or a tenth from the third epoch on.
SCHEDULES = [
    (dict(), (0.1, 0.1)),
    (dict(schedule="constant", lr_warmup=3), (0.05, 0.075)),
    (dict(lr_step=2), (0.1, 0.01)),
    (dict(schedule="cosine"), (0.05 * (1 + math.cos(math.pi / 4)), 0.05)),
]


@pytest.mark.parametrize("flags, rates", SCHEDULES)
@pytest.mark.parametrize("modalities, fusion", [(PAIR, "concat"), (PAIR, "film"), (THREE, "sum")])
def test_estimate_is_that_of_the_definition(begin, modalities, fusion, flags, rates):
    method, run = begin(modalities, fusion, estimate_epochs=2, **flags)
    train_epoch(run, method)  # so that there is a momentum to go on with
    run.epoch, run.optimizer.param_groups[0]["lr"] = 1, rates[0]  # as the schedule has left it
    expected, weights = literal_estimate(run, modalities, rates), method.estimate(run)
    assert weights == pytest.approx(expected, rel=1e-9) and weights.keys() == {"fused", *modalities}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    assert len({round(weight, 6) for weight in weights.values()}) > 1


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_estimate_leaves_the_run_as_it_is(begin, optimizer):
    method, run = begin()
    run.optimizer = optimizer(run.model.parameters(), lr=0.05)
    torch.optim.lr_scheduler.StepLR(run.optimizer, 1)  # which wraps the optimizer's step
    train_epoch(run, method)
    model, state = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.optimizer.state_dict())
    grads, draws = [p.grad.clone() for p in run.model.parameters()], torch.get_rng_state()
    mode, trace = run.model.training, copy.deepcopy(method.trace._sums)
    method.estimate(run)
    assert all(torch.equal(model[key], value) for key, value in run.model.state_dict().items())
    assert state["param_groups"] == run.optimizer.state_dict()["param_groups"]
    for place, values in run.optimizer.state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(state["state"][place][key]), torch.as_tensor(values[key]))
                   for key in values if values[key] is not None)  # fmt: skip
    assert all(torch.equal(grad, p.grad) for grad, p in zip(grads, run.model.parameters(), strict=True))
    assert torch.equal(draws, torch.get_rng_state()) and run.model.training is mode and run.epoch == 0
    assert method.trace._sums.keys() == trace.keys()
    assert all(torch.equal(method.trace._sums[name], sums) for name, sums in trace.items())


def test_a_task_trains_its_own_encoder_and_head_only(begin):
    method, run = begin(THREE)
    trial = method.trained_alone(run, "visual").model.state_dict()
    changed = {key for key, value in run.model.state_dict().items() if not torch.equal(value, trial[key])}
    assert changed == {key for key in trial if key.startswith(("encoders.visual.", "heads.visual."))}


@pytest.mark.parametrize("modalities", [PAIR, THREE])
def test_loss_is_the_weighted_sum(begin, tiny_batch, modalities):
    method, run = begin(modalities)
    method.weights = {task: weight for task, weight in zip(method.tasks, (0.1, 0.7, 0.2, 0.0), strict=False)}
    output = method.forward(tiny_batch(modalities))
    losses = method.losses(output)
    parts = [F.cross_entropy(output.logits, output.target)]
    parts += [F.cross_entropy(run.model.heads[name](output.features[name]), output.target) for name in modalities]
    expected = (len(modalities) + 1) * (0.1 * parts[0] + 0.7 * parts[1] + 0.2 * parts[2])
    torch.testing.assert_close(losses["loss"], expected)
    assert losses.keys() == {"loss", "loss_joint", *(f"loss_{name}" for name in modalities)}


def test_equal_weights_are_joint_training_with_heads(begin, monkeypatch, tiny_model, tiny_run):
    method, run = begin()
    monkeypatch.setattr(method, "estimate", lambda _: dict.fromkeys(method.tasks, 1 / 3))
    joint_model = tiny_model()
    joint = Joint(copy.copy(method.args), joint_model)
    joint.args.unimodal_loss = "heads"
    joint_model.add_heads()
    joint_model.double().load_state_dict(run.model.state_dict())
    joint_run = tiny_run(joint_model, joint.args, count=12)
    for each, its_run in ((method, run), (joint, joint_run)):
        for its_run.epoch in range(2):
            train_epoch(its_run, each)
            each.on_epoch_end(its_run)
    for ours, theirs in zip(run.model.parameters(), joint_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_when_it_estimates_for_how_long_and_on_what(begin, monkeypatch):
    method, run = begin(super_epoch=2, estimate_epochs=3, epochs=4)
    looked_at, orders = [], []
    collect = type(run).collect
    monkeypatch.setattr(type(run), "collect", lambda r, data, fn: looked_at.append(data) or collect(r, data, fn))
    loader = type(run).loader
    monkeypatch.setattr(
        type(run),
        "loader",
        lambda r, data, shuffle=True, first=0: orders.append((shuffle, r.epoch)) or loader(r, data, shuffle, first),
    )
    records = []
    for run.epoch in range(4):
        train_epoch(run, method)
        records.append(method.on_epoch_end(run)["weight"])
    # An estimate looks twice with the model and twice with each of three copies, at nothing but its own two sets.
    assert looked_at == [run.plain, run.held_out] * 4 * 2
    copies = [[epoch for shuffle, epoch in orders if shuffle].count(epoch) for epoch in range(4)]
    assert copies == [1 + 3, 1 + 3, 1 + 3 + 3, 1 + 3]  # three epochs from 0, and what is left of them from 2
    assert records[0] == records[1] != records[2] == records[3]


def test_state_goes_on_within_a_super_epoch(begin, tmp_path):
    method, run = begin()
    train_epoch(run, method)
    method.on_epoch_end(run)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    resumed, other = begin()
    assert resumed.weights != method.weights
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.weights == method.weights and resumed.trace.history == method.trace.history
    other.epoch = 1
    resumed.on_epoch_start(other)
    assert resumed.weights == method.weights  # no estimate is due


def test_flags():
    args = parse(["--method", "gblending"])
    assert (args.super_epoch, args.estimate_epochs, args.held_out) == (10, 10, 0.1)
    assert parse(["--method", "gblending", "--super_epoch", "4"]).estimate_epochs == 4
    assert parse(["--method", "gblending", "--super_epoch", "4", "--estimate_epochs", "1"]).estimate_epochs == 1
    for wrong in (["--unimodal_loss", "split"], ["--held_out", "0"], ["--held_out", "1"], ["--modulate_during", "all"]):
        with pytest.raises(SystemExit):
            parse(["--method", "gblending", *wrong])


def test_it_declares_the_share_that_it_withholds(begin):
    assert begin(held_out=0.25)[0].held_out == 0.25
