"""The learning rate over the epochs, the norm of the gradients, the optimizers."""

import math

import pytest
import torch
from helpers.acting import acting
from helpers.resuming import train_stopped
from helpers.runs import STEPS, rows_of, train
from helpers.steps import host_reads

from engine.parser import parse
from engine.setup import make_optimizer
from engine.train import step
from methods import METHODS
from methods.joint import Joint
from models.multimodal import clip_gradients
from scripts.kill import differences
from utils.schedule import factor, make_schedule

EPOCHS = 5


def cosine(epoch):
    return 0.5 + 0.5 * math.cos(math.pi * epoch / EPOCHS)


RATES = {
    "--schedule constant": [1.0] * EPOCHS,
    "--schedule step --lr_step 2 --lr_gamma 0.5": [1, 1, 0.5, 0.5, 0.25],
    "--schedule cosine": [cosine(epoch) for epoch in range(EPOCHS)],
    "--schedule constant --lr_warmup 3": [0.25, 0.5, 0.75, 1, 1],
    "--lr_warmup 1 --lr_step 2 --lr_gamma 0.5": [0.5, 1, 0.5, 0.5, 0.25],
    "--schedule cosine --lr_warmup 1": [cosine(epoch) * (0.5 if epoch == 0 else 1) for epoch in range(EPOCHS)],
}


@pytest.mark.parametrize("words", RATES)
def test_the_rate_of_every_epoch_is_the_formulas_and_the_encoders_follow(tiny_model, words):
    names, factors = ("audio", "visual", "text"), {"audio": 1, "visual": 0.5, "text": 2}
    given = "--modality_lr text=2 visual=0.5"
    args = parse(f"--epochs {EPOCHS} --lr 0.1 --encoder_lr_factor 3 {given} {words}".split())
    model = tiny_model(names)
    optimizer = make_optimizer(args, model)
    schedule, found = make_schedule(optimizer, args), []
    for _ in range(EPOCHS):
        found.append({id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]})
        optimizer.step()
        schedule.step()
    for rates, wanted in zip(found, RATES[words], strict=True):
        for key, p in model.named_parameters():
            factor = 3 * factors[key.split(".")[1]] if key.startswith("encoders.") else 1
            assert rates[id(p)] == pytest.approx(0.1 * factor * wanted, rel=1e-12)


def test_without_warm_up_the_steps_are_pytorchs_own():
    args = parse("--lr 0.1 --lr_step 2 --lr_gamma 0.3".split())
    weight = torch.nn.Parameter(torch.ones(1))
    schedule = make_schedule(torch.optim.SGD([weight], 0.1), args)
    assert type(schedule) is torch.optim.lr_scheduler.StepLR
    assert [factor(args, epoch) for epoch in range(5)] == pytest.approx([1, 1, 0.3, 0.3, 0.09])


@pytest.mark.parametrize("words", ["--schedule cosine --lr_warmup 1", "--optimizer adam --clip_norm 0.5 --lr_warmup 2"])
@pytest.mark.parametrize("method", ["inforeg", "gblending", "mslr"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(demo, tmp_path, method, words):
    more = [*acting(method), *words.split(), "--epochs", "4"]
    whole = train(demo, tmp_path / "whole", *more)
    rates = [row["lr"] for row in rows_of(whole)]
    assert len(set(rates)) > 1
    train_stopped(demo, tmp_path, *more, after=2 * STEPS + 2)
    train_stopped(demo, tmp_path, *more, "--resume", after=1)
    folder = train(demo, tmp_path, *more, "--resume")
    assert differences(whole, folder) == []


# --- The norm of all gradients


def method_and_run(tiny_model, tiny_run, make_args, modalities, **flags):
    method = Joint(make_args(**flags), tiny_model(modalities))
    return method, tiny_run(method.model, method.args, modalities)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "text")], ids=len)
def test_the_norm_of_all_gradients_is_clipped_after_the_methods_edits(
    tiny_model, tiny_run, tiny_batch, make_args, modalities, monkeypatch
):
    gradients, traces, after = [], [], Joint.after_backward
    monkeypatch.setattr(
        Joint, "after_backward", lambda self, output: (after(self, output), [p.grad.mul_(7) for p in weights(self)])
    )
    weights = lambda method: list(method.model.parameters())  # noqa: E731
    for norm in (None, 1e9, 0.1):
        method, run = method_and_run(tiny_model, tiny_run, make_args, modalities, clip_norm=norm)
        method.model.train()
        step(run, method, tiny_batch(modalities))
        gradients.append(torch.cat([p.grad.flatten() for p in weights(method)]))
        traces.append(method.on_epoch_end(None)["fisher_trace"])
    free, loose, short = gradients
    assert torch.equal(free, loose) and free.norm() > 0.2
    torch.testing.assert_close(short, free * 0.1 / free.norm(), rtol=1e-4, atol=1e-12)  # torch adds 1e-6 to the norm
    assert traces[0] == traces[1] == traces[2]


def test_clipping_reads_nothing_back(tiny_model, monkeypatch):
    model = tiny_model()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    reads = host_reads(monkeypatch)
    clip_gradients(model.parameters(), 0.1)
    assert reads == []


def test_dgls_norm_is_the_common_flags_default(demo, tmp_path):
    one, same, other = (
        train(demo, tmp_path / name, "--method", "dgl", "--epochs", "1", *more)
        for name, more in (("a", []), ("b", ["--clip_norm", "40"]), ("c", ["--clip_norm", "0.01"]))
    )
    assert rows_of(one) == rows_of(same) != rows_of(other)


def test_what_gblending_trains_alone_is_clipped_too(demo, tmp_path):
    weight = [
        rows_of(train(demo, tmp_path / norm, *acting("gblending", "--epochs", "1", "--clip_norm", norm)))[0]["weight"]
        for norm in ("1e9", "1e-9")
    ]
    assert weight[0] != weight[1]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_optimizer_is_the_one_named(tiny_model, name):
    optimizer = make_optimizer(parse(["--optimizer", name, "--weight_decay", "0.5"]), tiny_model())
    assert type(optimizer).__name__.lower() == name and optimizer.param_groups[0]["weight_decay"] == 0.5


def test_every_method_trains_with_all_of_it(demo, tmp_path, monkeypatch):
    more = "--schedule cosine --lr_warmup 1 --clip_norm 1 --optimizer adam --lr 1e-3 --epochs 2".split()
    for method in METHODS:
        assert len(rows_of(train(demo, tmp_path, *acting(method, *more)))) == 2
