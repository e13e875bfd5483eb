"""The ensemble of unimodal models: its figures by hand, what it refuses, and its row in the table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers.results import FUSED
from helpers.runs import SMALL, make_demo, train
from helpers.written import table_of

from dataset import DATASETS
from dataset.base import MultimodalDataset
from dataset.demo import Demo
from engine.parser import parse
from engine.setup import make_method
from scripts import collect, ensemble
from scripts.experiments.ensembles import tag_of
from utils.errors import RunError
from utils.numbers import positive
from utils.runs.predictions import read_predictions

KEPT = {"names", "classes", "heads", "target"}
KEPT |= {rule + kind for rule in ("last", "val") for kind in ("", "_by_head", "_probabilities")}
TARGETS = [0, 1, 1, 2]
# The probabilities that each modality's model gives to the four test samples.
TABLES = {
    "audio": [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.90, 0.09, 0.01], [0.1, 0.1, 0.8]],
    "visual": [[0.2, 0.5, 0.3], [0.2, 0.7, 0.1], [0.01, 0.49, 0.50], [0.5, 0.2, 0.3]],
    "depth": [[0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2], [0.3, 0.6, 0.1]],
}
SHIFT = {"audio": 3.0, "visual": -2.0, "depth": 0.0}  # of the logits, which softmax takes out


class Noisy(nn.Linear):
    """The identity, in evaluation mode only."""

    dim = 3

    def __init__(self):
        super().__init__(3, 3)

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.9, self.training))


class Toy(MultimodalDataset):
    """Test samples that are the logits themselves."""

    forms = {"audio": "sound"}
    tables = TABLES
    protocol = "the tests'"
    method_defaults = {}
    defaults = dict(
        data_root="nowhere", frames=3, batch_size=3, epochs=2, optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=0.0,
        lr_step=9, lr_gamma=0.1,
    )  # fmt: skip

    def __init__(self, args, rows, modalities, train):
        assert rows == "test rows" and not train
        self.modalities, self.targets, self.names = modalities, TARGETS, list("abcd")

    def __len__(self):
        return len(TARGETS)

    def __getitem__(self, i):
        return {m: torch.tensor(self.tables[m][i]).log() + SHIFT[m] for m in self.modalities}, TARGETS[i], i

    @classmethod
    def add_args(cls, group):
        group.add_argument("--frames", type=positive)
        group.add_argument("--cache", default="none")

    @classmethod
    def split_files(cls, args):
        return []

    @classmethod
    def encoders(cls, args):
        return dict.fromkeys(TABLES, Noisy)

    @classmethod
    def class_names(cls, args):
        return ("low", "middle", "high")

    @classmethod
    def read_splits(cls, args):
        return "training rows", "test rows"


class Other(Toy):
    """Another set with the same flags."""


@pytest.fixture
def save(tmp_path, monkeypatch):
    """save(modality, *flags, name, epoch): the checkpoint of a model whose logits are its inputs."""
    monkeypatch.setitem(DATASETS, "toy", Toy)
    monkeypatch.setitem(DATASETS, "other", Other)

    def make(modality, *flags, name="last.pt", epoch=1, method="unimodal"):
        argv = ["--dataset", "toy", "--method", method, "--out", str(tmp_path / "runs"), *flags]
        args = parse([*argv, *(["--modality", modality] if method == "unimodal" else [])])
        model = make_method(args).model
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer.weight.shape == (3, 3):
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)
        path = Path(ensemble.run_of(args)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "args": vars(args), "epoch": epoch, "classes": ["low", "middle", "high"]}
        torch.save(state, path)
        return path

    return make


def run(out, *words):
    return ensemble.main([*map(str, words), "--out", str(out), "--workers", "0", "--device", "cpu"])


def result_of(out, tag="default"):
    return json.loads((out / "toy" / "ensemble" / tag / "seed0" / "result.json").read_text())


def test_the_figures_by_hand(save, tmp_path, capsys):
    figures = run(tmp_path, save("visual"), save("audio"))
    # Mean probabilities (.45 .35 .2), (.35 .55 .1), (.455 .29 .255), (.3 .15 .55): classes 0, 1, 0 and 2.
    assert figures["accuracy"] == 0.75
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, rel=1e-12)
    assert figures["loss"] == pytest.approx(-np.log([0.45, 0.55, 0.29, 0.55]).mean(), rel=1e-6)
    assert (figures["audio"], figures["visual"]) == (0.5, 0.25)
    assert figures.keys() == FUSED | {"audio", "visual"}
    assert figures["majority"] == 0.5
    assert result_of(tmp_path) == {"last": figures}
    shown = table_of(capsys.readouterr().out)[0]
    assert (shown[""], shown["accuracy"]) == ("average of these", "75.0")


def test_the_average_of_logits_is_another_one(save, tmp_path):
    models = [save("audio"), save("visual")]
    figures = run(tmp_path, *models, "--average", "logits")
    # The third sample's geometric means are .095, .21 and .071: class 1, as its target.
    assert figures["accuracy"] == 1.0
    together = np.sqrt(np.prod([TABLES["audio"], TABLES["visual"]], axis=0))
    together /= together.sum(axis=1, keepdims=True)
    assert figures["loss"] == pytest.approx(-np.log(together[range(4), TARGETS]).mean(), rel=1e-6)
    assert run(tmp_path, *models)["accuracy"] == 0.75  # in a folder of its own
    assert result_of(tmp_path, "average=logits") != result_of(tmp_path)


@pytest.mark.parametrize("average", ensemble.AVERAGES)
def test_three_models(save, tmp_path, average):
    figures = run(tmp_path, *(save(name) for name in ("depth", "audio", "visual")), "--average", average)
    means = {"probabilities": np.mean, "logits": lambda p, axis: np.exp(np.log(p).mean(axis=axis))}
    together = means[average](np.array(list(TABLES.values())), axis=0)
    assert figures["accuracy"] == (together.argmax(axis=1) == TARGETS).mean()
    likelihood = (together / together.sum(axis=1, keepdims=True))[range(4), TARGETS]
    assert figures["loss"] == pytest.approx(-np.log(likelihood).mean(), rel=1e-6)
    assert list(figures)[-3:] == ["audio", "visual", "depth"]  # the data set's order


@pytest.mark.parametrize("average", ensemble.AVERAGES)
def test_equal_models_predict_what_one_does(save, tmp_path, monkeypatch, average):
    monkeypatch.setattr(Toy, "tables", TABLES | {"visual": TABLES["audio"]})
    figures = run(tmp_path, save("audio"), save("visual"), "--average", average)
    assert figures["accuracy"] == figures["audio"] == figures["visual"] == 0.5
    assert figures["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.09, 0.8]).mean(), rel=1e-6)


def test_the_mean_of_probabilities_is_one_of_probabilities():
    logits = torch.tensor(list(TABLES.values()), dtype=torch.float64).log()
    torch.testing.assert_close(ensemble.mean_probability(logits).exp(), logits.exp().mean(dim=0))


def test_models_that_number_the_classes_otherwise_predict_the_same(save, tmp_path):
    audio, visual = save("audio"), save("visual")
    expected = run(tmp_path / "one", audio, visual)
    state, order = torch.load(visual, weights_only=True), [2, 0, 1]
    state["model"] = {name: x[order] if name.startswith("fusion") else x for name, x in state["model"].items()}
    torch.save(state | {"classes": [state["classes"][number] for number in order]}, visual)
    assert run(tmp_path / "other", audio, visual) == expected


@pytest.mark.parametrize("average", ensemble.AVERAGES.values())
def test_equal_models_keep_the_smallest_difference(average):
    draws = torch.Generator().manual_seed(0)
    logits = 10 * torch.randn(1, 2000, 1, generator=draws) + torch.tensor([0.0, 1e-5, -1e-5])
    for count in (2, 3):
        assert torch.equal(average(logits.expand(count, -1, -1).double()).argmax(dim=1), logits[0].argmax(dim=1))


@pytest.mark.parametrize(
    "audio, visual, named",
    [
        (["--frames", "3"], ["--frames", "4"], "^--frames is 3 for audio, 4 for visual: "),
        (["--seed", "1"], [], "^--seed is 1 for audio, 0 for visual: "),
        (["--val_fraction", "0.5"], [], "^--val_fraction is 0.5 for audio, 0.0 for visual: "),
        (["--data_root", "here"], [], "^--data_root is here for audio, nowhere for visual: "),
        (["--train_noise", "audio:snr:5"], [], r"^--train_noise is \['audio:snr:5'\] for audio, None for visual: "),
        ([], ["--dataset", "other", "--frames", "4"], "^--dataset is toy for audio, other for visual: "),
        (["--seed", "1"], ["--frames", "4"], "^--frames is 3 .* visual; --seed is 1 for audio, 0 for visual: "),
    ],
)
def test_models_of_different_data_are_refused(save, tmp_path, audio, visual, named):
    models = [save("audio", *audio), save("visual", *visual)]
    with pytest.raises(RunError, match=named) as refused:
        run(tmp_path / "out", *models)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_what_need_not_be_the_same(save, tmp_path):
    models = [save("audio", "--lr", "0.1", "--cache", "ram"), save("visual", "--epochs", "1", "--workers", "1")]
    assert run(tmp_path, *models)["accuracy"] == 0.75
    assert "accuracy" in result_of(tmp_path, "lr=0.1+epochs=1")["last"]
    elsewhere = [save("audio", "--data_root", "here"), save("visual", "--data_root", "there")]
    assert run(tmp_path / "moved", *elsewhere, "--data_root", "now")["accuracy"] == 0.75


def test_checkpoints_that_make_no_ensemble_are_refused(save, tmp_path):
    audio, visual, joint = save("audio"), save("visual"), save("", method="joint")
    with pytest.raises(RunError, match="two modalities or more, not audio alone"):
        run(tmp_path, audio)
    with pytest.raises(RunError, match="^audio more than once"):
        run(tmp_path, audio, visual, audio)
    with pytest.raises(RunError, match="one of --method joint"):
        run(tmp_path, audio, joint)
    with pytest.raises(RunError, match="nowhere.pt does not exist"):
        run(tmp_path, audio, tmp_path / "nowhere.pt")
    with pytest.raises(RunError, match=r"best\.pt and last\.pt follow different rules"):
        run(tmp_path, audio, save("visual", name="best.pt"))
    with pytest.raises(RunError, match="last.pt is of epoch 1 of 2"):
        run(tmp_path, audio, save("visual", epoch=0))
    assert not (tmp_path / "toy").exists()


def test_best_checkpoints_add_the_rule_val(save, tmp_path):
    last = run(tmp_path, save("audio"), save("visual"))
    val = run(tmp_path, save("audio", name="best.pt", epoch=0), save("visual", name="best.pt", epoch=1))
    assert result_of(tmp_path) == {"last": last, "val": val}


def test_best_checkpoints_beside_the_last_ones_are_averaged_at_once(save, tmp_path):
    best = [save(name, name="best.pt", epoch=0) for name in ("audio", "visual")]
    for path in best:  # other models than the last ones
        state = torch.load(path, weights_only=True)
        torch.save(state | {"model": {k: -v if "fusion" in k else v for k, v in state["model"].items()}}, path)
    val = run(tmp_path / "val", *best)
    last = run(tmp_path, save("audio"), save("visual"))
    assert val != last and result_of(tmp_path) == {"last": last, "val": val}
    folder = tmp_path / "toy" / "ensemble" / "default" / "seed0"
    assert read_predictions(folder).keys() == KEPT


def test_best_checkpoints_that_not_every_run_has_are_left_alone(save, tmp_path):
    save("audio", name="best.pt")
    run(tmp_path, save("audio"), save("visual"))
    assert result_of(tmp_path).keys() == {"last"}


def test_another_ensemble_is_not_overwritten(save, tmp_path):
    audio, visual, depth = (save(name) for name in TABLES)
    first = run(tmp_path, audio, visual)
    assert run(tmp_path, visual, audio) == first
    before = result_of(tmp_path)
    with pytest.raises(RunError, match=r"holds the ensemble of other runs \(.*modality=audio.*modality=visual.*\)"):
        run(tmp_path, audio, depth)
    assert result_of(tmp_path) == before
    assert run(tmp_path / "out", audio, depth).keys() >= {"depth"}


@pytest.mark.parametrize(
    "audio, visual, average, tag",
    [
        ("modality=audio", "modality=visual", "probabilities", "default"),
        ("modality=audio", "modality=visual", "logits", "average=logits"),
        ("lr=1_modality=audio_momentum=0.5", "lr=1_modality=visual_momentum=0.5", "logits",
         "lr=1_momentum=0.5_average=logits"),
        ("batch_size=8_modality=audio", "modality=visual", "probabilities", "batch_size=8+default"),
        ("mine", "mine", "probabilities", "mine"),
    ],
)  # fmt: skip
def test_the_tag_is_the_runs_without_their_modality(audio, visual, average, tag):
    assert tag_of({"audio": audio, "visual": visual}, average) == tag


LABELS = ["audio alone", "visual alone", "average of these", "Joint training, test"]  # the last has a tag of its own


def test_the_ensemble_of_real_runs_is_a_row_of_the_table(tmp_path, monkeypatch, capsys):
    demo, out = make_demo(tmp_path / "demo"), tmp_path / "results"
    alone = {}
    for name in ("audio", "visual"):
        words = f"--method unimodal --modality {name} --tag modality={name} --epochs 2 --val_fraction 0.34".split()
        alone[name] = train(demo, out, *words, "--lr", "0.1")
    train(demo, out, "--method", "joint", "--epochs", "2", "--val_fraction", "0.34")
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    for file, rule in (("last.pt", "last"), ("best.pt", "val")):
        figures = run(out, *(folder / file for folder in alone.values()))
        for name, folder in alone.items():  # what the training loop has measured
            assert figures[name] == json.loads((folder / "result.json").read_text())[rule][name]
        predictions = read_predictions(out / "demo" / "ensemble" / "default" / "seed0")
        assert (predictions[rule] == predictions["target"]).mean() == figures["accuracy"]
        assert np.array_equal(predictions["target"], read_predictions(alone["audio"])["target"])
        columns = ["accuracy", "seeds", "audio", "visual", "window audio"]
        rows = table_of(collect.main([str(out), "--rule", rule, "--columns", *columns]))
        assert [row[""] for row in rows] == LABELS
        assert rows[2]["accuracy"] == f"{100 * figures['accuracy']:.1f}" and rows[2]["seeds"] == "1"
        assert rows[2]["audio"] == rows[0]["audio"] and rows[2]["visual"] == rows[1]["visual"]
        assert rows[2]["window audio"] == "-" and rows[3]["window audio"] != "-"
    assert predictions.keys() == KEPT and predictions["heads"].tolist() == ["fused", "audio", "visual"]
    assert predictions["names"].tolist() == read_predictions(alone["audio"])["names"].tolist()
    for k, name in enumerate(alone, 1):
        shares = read_predictions(alone[name])["last_probabilities"][:, 0]
        np.testing.assert_allclose(predictions["last_probabilities"][:, k], shares, atol=1e-3)
    folder = out / "demo" / "ensemble" / "default" / "seed0"
    (origin,) = json.loads((folder / "args.json").read_text())["provenance"]
    assert origin["command"].startswith("python scripts/ensemble.py ") and str(alone["audio"]) in origin["command"]
    assert origin["data"].keys() == {"train.csv", "test.csv", "demo.json"}
    assert {path.name for path in folder.iterdir()} == {
        "args.json", "result.json", "predictions.npz", "done", "checksums.txt",
    }  # fmt: skip
    # It has no epochs to choose among: the table says so, and shows the rest.
    oracle = collect.main([str(out), "--rule", "oracle"])
    assert [row[""] for row in table_of(oracle)] == [*LABELS[:2], LABELS[3]]
    assert str(folder) in oracle.splitlines()[-1] and "`oracle`" in oracle.splitlines()[-1]
    with pytest.raises(RunError, match="no finished run .* with rule 'oracle'"):
        collect.main([str(folder), "--rule", "oracle"])


def test_the_command_ends_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ensemble.py", "nowhere.pt", "neither.pt"])
    with pytest.raises(SystemExit, match="^error: nowhere.pt does not exist$"):
        runpy.run_path(ensemble.__file__, run_name="__main__")
