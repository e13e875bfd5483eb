"""What a run leaves in its folder: rows, results by every rule, weights, predictions."""

import json

import numpy as np
import pytest
import torch
import torch.utils.tensorboard
from helpers.runs import SMALL, checkpoint, differing, flags, folder_of, rows_of, train

from dataset.demo import Demo
from dataset.loader import collate
from engine.checkpoints import Checkpoints
from engine.parser import parse
from engine.setup import make_method
from utils.runs.predictions import read_predictions


def test_what_the_folder_of_a_run_holds(demo, tmp_path):
    argv = ["--method", "joint", "--epochs", "2", "--lr", "0.02", "--lr_step", "1"]
    folder = train(demo, tmp_path, *argv)
    names = {path.name for path in folder.iterdir()}
    assert {name for name in names if not name.startswith("events.")} == {
        "args.json", "metrics.jsonl", "result.json", "predictions.npz", "last.pt", "done", "figures",
        "checksums.txt",
    }  # fmt: skip
    assert any(name.startswith("events.") for name in names)
    args = json.loads((folder / "args.json").read_text())
    wanted = dict(method="joint", dataset="demo", lr=0.02, epochs=2, seed=0, fusion="concat", batch_size=16)
    assert wanted.items() <= args.items()
    (process,) = args["provenance"]
    assert process["versions"].keys() == {"python", "torch", "torchvision", "torchaudio", "numpy"}
    assert process["machine"].keys() == {"platform", "cpus", "gpu"}
    assert [row["lr"] for row in rows_of(folder)] == pytest.approx([0.02, 0.002], rel=1e-12)
    state = checkpoint(folder)
    assert state["epoch"] == 1 and {"model", "method", "optimizer", "schedule", "random", "args"} <= state.keys()
    assert state["classes"] == list(Demo.classes)
    done = json.loads((folder / "done").read_text())
    assert done["seconds"] > done["median_seconds_per_epoch"] > 0


def check_result(folder, rules):
    rows, result = rows_of(folder), json.loads((folder / "result.json").read_text())
    assert result.keys() == rules
    for figures in result.values():
        assert figures == {"epoch": figures["epoch"]} | rows[figures["epoch"]]["test"]
    accuracies = [row["test"]["accuracy"] for row in rows]
    assert result["last"]["epoch"] == len(rows) - 1
    assert result["oracle"]["epoch"] == accuracies.index(max(accuracies))
    return rows, result


def test_result_has_the_last_and_the_best_test_epoch(demo, tmp_path):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "4", "--lr", "0.1")
    check_result(folder, {"last", "oracle"})
    assert not (folder / "best.pt").exists()


def test_a_validation_share_selects_an_epoch_and_its_weights(demo, tmp_path, monkeypatch):
    kept, write = {}, Checkpoints.write

    def keep(self, name, state):
        kept.setdefault(state["epoch"], {key: value.clone() for key, value in state["model"].items()})
        write(self, name, state)

    monkeypatch.setattr(Checkpoints, "write", keep)
    argv = ["--method", "joint", "--epochs", "6", "--lr", "0.1", "--val_fraction", "0.34"]
    rows, result = check_result(train(demo, tmp_path, *argv), {"last", "oracle", "val"})
    accuracies = [row["val"]["accuracy"] for row in rows]
    best = accuracies.index(max(accuracies))
    assert result["val"]["epoch"] == best
    assert 0 < best < 5 or len(set(accuracies)) > 1  # otherwise nothing has been selected
    state = checkpoint(folder_of(flags(demo, tmp_path, *argv)), "best.pt")
    assert state["epoch"] == best and not differing(state["model"], kept[best])
    assert sorted(kept) == list(range(6)) and all(differing(kept[best], kept[e]) for e in kept if e != best)


def test_predictions_are_those_of_the_epochs_that_the_rules_choose(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    argv = ["--method", "joint", "--epochs", "6", "--lr", "0.2", "--val_fraction", "0.34"]
    folder = train(demo, tmp_path, *argv)
    result, found = json.loads((folder / "result.json").read_text()), read_predictions(folder)
    labels = [int(line.split(",class")[1]) for line in (demo / "test.csv").read_text().splitlines()]
    assert found["target"].tolist() == labels and found["classes"].tolist() == list(Demo.classes)
    assert found["names"].tolist() == [line.split(",")[0] for line in (demo / "test.csv").read_text().splitlines()]
    assert found["heads"].tolist() == ["fused", "audio", "visual"]
    kinds = ("", "_by_head", "_probabilities")
    assert result.keys() == {"last", "val", "oracle"}
    assert found.keys() == {"names", "classes", "heads", "target", *(rule + kind for rule in result for kind in kinds)}
    for rule, figures in result.items():
        assert (found[rule] == labels).mean() == figures["accuracy"]
        for k, name in enumerate(("accuracy", "audio", "visual")):
            assert (found[f"{rule}_by_head"][:, k] == labels).mean() == figures[name]
    assert len({figures["epoch"] for figures in result.values()}) == 3
    assert len({tuple(found[rule]) for rule in result}) > 1
    for rule, name in (("last", "last.pt"), ("val", "best.pt")):  # by the weights of the epoch, sample by sample
        method = make_method(parse(flags(demo, tmp_path, *argv)))
        method.model.load_state_dict(checkpoint(folder, name)["model"])
        method.model.eval()
        args = parse(flags(demo, tmp_path, *argv))
        data = Demo(args, Demo.read_splits(args)[1], ("audio", "visual"), train=False)
        with torch.no_grad():
            outputs = [method.forward(collate([data[i]])) for i in range(len(data))]
        logits = torch.stack(
            [torch.cat([one.logits, *one.unimodal.values()]) for one in outputs]
        )  # (N, heads, classes)
        assert found[f"{rule}_by_head"].tolist() == logits.argmax(dim=2).tolist()
        probabilities = found[f"{rule}_probabilities"]
        assert probabilities.dtype == np.float16
        np.testing.assert_allclose(probabilities, logits.softmax(dim=2).numpy(), rtol=1e-3, atol=1e-6)
