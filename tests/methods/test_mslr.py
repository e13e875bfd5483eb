"""MSLR and --modality_lr: steps of every encoder by hand, what they reduce to, and what is refused."""

import pytest
import torch
from helpers.runs import checkpoint, differing, rows_of, train
from helpers.steps import gradients, step

from engine.parser import parse
from engine.setup import make_method, make_optimizer
from methods.mslr import MSLR
from utils.errors import CombinationError, RunError

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
FACTORS = {"audio": 0.5, "visual": 2.0, "text": 0.125}


@pytest.mark.parametrize("named", [("visual",), TWO, THREE], ids=len)
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_steps_by_hand(tiny_model, tiny_batch, modalities, named):
    args = parse(["--method", "mslr", "--modality_lr", *(f"{name}={FACTORS[name]}" for name in named)])
    vars(args).update(lr=0.1, momentum=0.9, weight_decay=0.25)
    method, velocity = MSLR(args, tiny_model(modalities)), {}
    optimizer = make_optimizer(args, method.model)
    for number in range(3):
        before = {key: p.detach().clone() for key, p in method.model.named_parameters()}
        step(method, tiny_batch(modalities, seed=number))
        for key, grad in gradients(method.model).items():
            velocity[key] = 0.9 * velocity.get(key, 0) + grad + 0.25 * before[key]
        optimizer.step()
        for key, p in method.model.named_parameters():
            room, name = key.split(".")[:2]
            factor = FACTORS[name] if room == "encoders" and name in named else 1.0
            torch.testing.assert_close(p.detach(), before[key] - factor * 0.1 * velocity[key], rtol=1e-12, atol=1e-14)


def weights(demo, out, *words):
    return checkpoint(train(demo, out, "--epochs", "1", *words))["model"]


def test_it_is_joint_training_at_the_rates_that_the_flag_says(demo, tmp_path):
    words = [["--method", "joint"], ["--method", "mslr", "--modality_lr", "visual=1", "audio=1"]]
    words += [["--method", name, "--modality_lr", "visual=3", "audio=0.5"] for name in ("joint", "mslr")]
    joint, neutral, flagged, mslr = (weights(demo, tmp_path / str(i), *more) for i, more in enumerate(words))
    assert not differing(joint, neutral) and not differing(flagged, mslr)
    assert differing(joint, mslr)


def test_equal_factors_are_the_factor_of_all_encoders(demo, tmp_path):
    one = weights(demo, tmp_path / "one", "--method", "mslr", "--modality_lr", "audio=1.5", "visual=1.5")
    other = weights(demo, tmp_path / "other", "--method", "joint", "--encoder_lr_factor", "1.5")
    assert not differing(one, other)


def test_other_methods_take_it(demo, tmp_path):
    """InfoReg whose windows are shut is MSLR, and one whose windows are open holds by each encoder's own rate."""
    words = ["--modality_lr", "audio=0.5", "visual=4"]
    mslr = weights(demo, tmp_path / "mslr", "--method", "mslr", *words)
    shut = weights(demo, tmp_path / "shut", "--method", "inforeg", "--threshold", "1", *words)
    assert not differing(mslr, shut)
    open_ = [*words, "--method", "inforeg", "--threshold", "-10", "--modulate_during", "all", "--start_epoch", "0"]
    assert differing(mslr, weights(demo, tmp_path / "open", *open_, "--regulation", "lr"))
    # Without momentum, decay or regulation an encoder goes the whole way that its gradients ask for at its own rate.
    free = train(demo, tmp_path / "free", "--method", "mslr", "--epochs", "1", "--momentum", "0", *words)
    (row,) = rows_of(free)
    assert row["hold"] == pytest.approx({"audio": 1, "visual": 1}, rel=1e-2)


def test_a_unimodal_run_takes_its_own_and_passes_others_over(demo, tmp_path):
    alone = [weights(demo, tmp_path / str(i), "--method", "unimodal", "--modality", "visual", *more) for i, more in
             enumerate(([], ["--modality_lr", "audio=3"], ["--modality_lr", "visual=3"]))]  # fmt: skip
    assert not differing(*alone[:2]) and differing(*alone[1:])


def test_it_names_the_setting(demo):
    def tag(*words):
        return parse(["--method", "mslr", "--modality_lr", *words]).tag

    assert tag("visual=2", "audio=.5") == tag("audio=0.5", "visual=2.0") == "modality_lr=audio=0.5+visual=2.0"


@pytest.mark.parametrize("factor", ["audio", "audio=", "=2", "audio=0", "audio=-1", "audio=nan", "audio=x", "a=b=1"])
def test_what_is_no_factor_is_refused(factor, capsys):
    with pytest.raises(SystemExit):
        parse(["--method", "joint", "--modality_lr", factor])
    assert "argument --modality_lr: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--method", "joint", "--modality_lr", "text=2"], "--modality_lr text: CREMAD has audio, visual"),
        (
            ["--method", "joint", "--modality_lr", "audio=2", "audio=3"],
            "--modality_lr audio is given twice: 2.0 and 3.0",
        ),
        (
            ["--method", "mslr"],
            "--method mslr needs --modality_lr, a factor of the learning rate for one or more of audio, visual, such "
            "as --modality_lr audio=0.5",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_sentence(words, said):
    with pytest.raises((CombinationError, RunError)) as refused:
        make_method(parse([*words, "--encoder", "convnet"]))
    assert str(refused.value) == said
