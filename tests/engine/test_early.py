"""--patience: a run ends where the validation split says so. --class_weights: rare classes count more."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.acting import acting
from helpers.resuming import train_stopped
from helpers.runs import SMALL, STEPS, checkpoint, rows_of, train
from helpers.steps import step

from dataset.base import targets_of
from dataset.demo import Demo
from engine.parser import parse
from engine.setup import balanced_weights
from methods import METHODS
from methods.inforeg import InfoRegMethod
from methods.joint import Joint
from scripts import ensemble
from scripts.kill import differences
from utils.errors import RunError
from utils.runs.history import Epoch, History

VAL = ["--val_fraction", "0.34"]


@pytest.fixture
def scripted(monkeypatch):
    """scripted(accuracies): what the validation split says after each epoch, in all runs from now on."""

    def script(accuracies):
        init = Epoch.__setattr__

        def told(self, name, value):
            if name == "evaluated" and "val" in value:
                value = value | {"val": value["val"] | {"accuracy": accuracies[self.epoch]}}
            init(self, name, value)

        monkeypatch.setattr(Epoch, "__setattr__", told)

    return script


def test_it_stops_after_so_many_epochs_without_a_better_one(demo, tmp_path, scripted, capsys):
    scripted([0.2, 0.5, 0.5, 0.4, 0.6, 0.1, 0.6, 0.6, 0.9])
    more = [*acting("joint", *VAL, "--epochs", "9")]
    folder = train(demo, tmp_path, *more, "--patience", "3")
    assert len(rows_of(folder)) == 8  # an equal one is not better
    assert "stopped after epoch 8: 3 epochs without a better one on validation" in capsys.readouterr().out
    done = json.loads((folder / "done").read_text())
    assert done["stopped_early_after_epochs"] == 8
    result = json.loads((folder / "result.json").read_text())
    assert (result["val"]["epoch"], result["last"]["epoch"]) == (4, 7)
    whole = train(demo, tmp_path / "whole", *more)
    assert rows_of(whole)[:8] == rows_of(folder) and "stopped_early" not in (whole / "done").read_text()
    assert checkpoint(whole, "best.pt")["epoch"] == 8 and checkpoint(folder, "best.pt")["epoch"] == 4


@pytest.mark.parametrize("after", [2 * STEPS, 2 * STEPS - 1, STEPS])
def test_a_stopped_run_ends_where_the_uninterrupted_one_does(demo, tmp_path, scripted, after):
    scripted([0.5, 0.1, 0.1, 0.9])
    more = [*acting("inforeg", *VAL, "--batch_size", "12", "--epochs", "4", "--patience", "2")]
    whole = train(demo, tmp_path / "whole", *more)
    assert len(rows_of(whole)) == 3
    train_stopped(demo, tmp_path, *more, after=after)
    folder = train(demo, tmp_path, *more, "--resume")
    assert differences(whole, folder) == []
    before = (folder / "done").read_bytes()
    assert train(demo, tmp_path, *more, "--resume") == folder and (folder / "done").read_bytes() == before


def test_a_run_killed_before_it_was_called_done_trains_no_epoch_more(demo, tmp_path, scripted, monkeypatch):
    scripted([0.5, 0.1, 0.1, 0.9])
    more = [*acting("joint", *VAL, "--epochs", "4", "--patience", "1")]

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "finish", killed)
        train(demo, tmp_path, *more)
    folder = train(demo, tmp_path, *more, "--resume")
    assert len(rows_of(folder)) == 2 and (folder / "done").exists()


def test_without_a_validation_split_it_is_refused(demo, tmp_path):
    with pytest.raises(RunError, match="^--patience needs a validation split, and there is none: add --val_fraction"):
        train(demo, tmp_path, "--method", "joint", "--patience", "2")
    assert not list(tmp_path.rglob("args.json"))


def test_an_ensemble_takes_runs_that_stopped_early(demo, tmp_path, scripted, monkeypatch):
    scripted([0.5, 0.1, 0.9])
    more = [*VAL, "--epochs", "3", "--patience", "1"]
    runs = [train(demo, tmp_path, *acting("unimodal", "--modality", m, "--tag", m), *more) for m in ("audio", "visual")]
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    words = [str(folder / "last.pt") for folder in runs]
    assert ensemble.main([*words, "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "e")])["accuracy"] >= 0


# --- Class weights


def test_the_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    targets = [0] * 7 + [1] * 2 + [2] * 11
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=np.array(targets))
    torch.testing.assert_close(balanced_weights(targets, 3).double(), torch.tensor(wanted), rtol=1e-6, atol=0)
    assert balanced_weights([0, 0, 2], 4)[1] == 3 / 4  # of a class without a sample


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "text")], ids=len)
@pytest.mark.parametrize("kind", ["none", "split", "heads"])
def test_every_cross_entropy_is_weighted(tiny_model, tiny_batch, make_args, modalities, kind):
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    method, batch = Joint(make_args(unimodal_loss=kind), tiny_model(modalities)), tiny_batch(modalities, size=7)
    method.model.double()
    method.class_weights = weights
    output, losses = step(method, batch)

    def mean(logits):
        each, w = F.cross_entropy(logits, batch.target, reduction="none"), weights[batch.target]
        return (w * each).sum() / w.sum()

    wanted = [mean(output.logits)] + [mean(z) for z in output.unimodal.values() if kind != "none"]
    torch.testing.assert_close(losses["loss"], sum(wanted), rtol=1e-12, atol=0)
    torch.testing.assert_close(losses["loss_joint"], wanted[0], rtol=1e-12, atol=0)


def test_a_run_takes_them_of_its_training_split(demo, tmp_path, monkeypatch):
    seen, run_of = [], InfoRegMethod.on_fit_start
    monkeypatch.setattr(
        InfoRegMethod, "on_fit_start", lambda self, run: (run_of(self, run), seen.append((self, run)))[0]
    )
    monkeypatch.setattr(Demo, "read_splits", classmethod(unbalanced(Demo.read_splits.__func__)))
    more = [*acting("inforeg", "--unimodal_loss", "split"), "--epochs", "2"]
    plain = train(demo, tmp_path / "plain", *more)
    whole = train(demo, tmp_path / "whole", *more, "--class_weights", "balanced")
    assert rows_of(plain)[0]["train"]["loss"] != rows_of(whole)[0]["train"]["loss"]
    method, run = seen[-1]
    assert (
        torch.equal(method.class_weights, balanced_weights(targets_of(run.train), 8))
        and seen[0][0].class_weights is None
    )
    assert method.class_weights.min() < method.class_weights.max()
    train_stopped(demo, tmp_path, *more, "--class_weights", "balanced", after=STEPS + 1)
    folder = train(demo, tmp_path, *more, "--class_weights", "balanced", "--resume")
    assert differences(whole, folder) == []
    short = train(demo, tmp_path / "bf16", *more, "--class_weights", "balanced", "--precision", "bf16", "--epochs", "1")
    assert rows_of(short)[0]["train"]["loss"] == pytest.approx(rows_of(whole)[0]["train"]["loss"], rel=0.02)


def unbalanced(read):
    def without_many_of_the_first_class(cls, args):
        train, test = read(cls, args)
        return [row for i, row in enumerate(train) if row[1] or i < 16], test

    return without_many_of_the_first_class


def test_a_method_with_a_loss_of_its_own_refuses_them(capsys):
    own = {"gblending", "greedy", "mmpareto", "dgl", "tcmax"}
    taking = {name for name, method in METHODS.items() if method.weighs_classes()}
    assert not own & taking and {"joint", "inforeg", "unimodal", "pmr", "g2d", "agm", "ogm", "valuation"} <= taking
    for name in METHODS:
        argv = [*acting(name), "--class_weights", "balanced"]
        if name in taking:
            assert parse(argv).tag.find("class_weights=balanced") >= 0
        else:
            with pytest.raises(SystemExit):
                parse(argv)
            assert f"--class_weights does not apply: {name} defines its own losses" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.weighs_classes()))
def test_a_method_that_takes_them_trains_by_them(demo, tmp_path, monkeypatch, name):
    """Its joint loss is the weighted one: another than without."""
    monkeypatch.setattr(Demo, "read_splits", classmethod(unbalanced(Demo.read_splits.__func__)))
    plain, weighted = (
        rows_of(train(demo, tmp_path / out, *acting(name), "--epochs", "1", *more))[0]["train"]["loss_joint"]
        for out, more in (("a", []), ("b", ["--class_weights", "balanced"]))
    )
    assert plain != weighted
