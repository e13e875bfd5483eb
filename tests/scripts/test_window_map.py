"""The map of gains: every place has the numbers of its runs, and the contours those of the hold."""

import csv
import json
import math

import pytest
from helpers.runs import SETTING

from scripts.drawing import figures
from scripts.drawing.pictures import Runs
from scripts.drawing.window_map import place
from scripts.experiments.cells import cells, parsed
from scripts.experiments.paper import EXPERIMENTS

EXTRA = [f"--{name}={value}" for name, value in SETTING.items()]
SEEDS = (0, 1)


def accuracies(args, seed):
    """Accuracies that tell every run apart; the picture is the weak one."""
    regulated = 0.1 * args["threshold"] + args["lr"] if args["method"] == "inforeg" else 0.0
    base = args["batch_size"] / 1000 + seed / 100
    return {"accuracy": 0.5 + base + regulated, "audio": 0.4 + base, "visual": 0.2 + base + 2 * regulated}


def held(args, seed):
    return args["lr"] * args["batch_size"] + seed / 10


@pytest.fixture
def written(demo, tmp_path):
    places = "demo", SEEDS, tmp_path / "results", demo, EXTRA
    for cell in cells(EXPERIMENTS["window_map"], *places):
        args = vars(parsed(cell.argv[1:]))
        cell.folder.mkdir(parents=True)
        regulated = args["method"] == "inforeg"
        row = {
            "epoch": 0,
            "fisher_trace": {"audio": 1.0, "visual": 1.0},
            "hold": {"audio": held(args, cell.seed), "visual": 1.0},
        }
        row |= {"regulated": {"audio": 1.0, "visual": 0.0}} if regulated else {}
        (cell.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (cell.folder / "result.json").write_text(json.dumps({"last": accuracies(args, cell.seed)}))
        (cell.folder / "done").write_text("{}")
    return places


def test_every_place_has_its_gain_over_the_joint_training_of_its_rate_and_batch(written, monkeypatch):
    kept, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda picture, *more: kept.append(picture) or save(picture, *more))
    path = figures.draw(EXPERIMENTS["window_map"], *written)
    with path.with_suffix(".csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3 * 3 and {line["weak_modality"] for line in lines} == {"visual"}
    for line in lines:
        threshold, rate, size = float(line["K"]), float(line["lr"]), int(line["batch_size"])
        assert int(line["steps"]) == math.ceil(48 / size)
        gain = 100 * (0.1 * threshold + rate)
        assert float(line["gain_fused"]) == pytest.approx(gain) and float(line["gain_weak"]) == pytest.approx(2 * gain)
        assert float(line["hold"]) == pytest.approx(min(rate * size + 0.05, 1.0))
    weak, _, fused, _, _ = kept[0].figure.axes  # the last is the colour bar's
    shown = [text.get_text() for text in fused.texts if "hold" in text.get_text()]
    first = [line for line in lines if line["K"] == lines[0]["K"]]
    assert shown == [f"{float(line['gain_fused']):+.1f}\nhold {float(line['hold']):.2f}" for line in first]
    assert [label.get_text() for label in fused.get_xticklabels()] == [str(math.ceil(48 / s)) for s in (32, 16, 8)]


def test_an_encoder_that_does_not_move_is_held_most(written):
    folder = next(written[2].glob("demo/joint/*/seed0"))
    row = json.loads((folder / "metrics.jsonl").read_text())
    for held, least in ((0.0, 0.0), (None, 1.0)):
        row["hold"]["audio"] = held
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        assert place(Runs("", None, [folder])).hold == least
