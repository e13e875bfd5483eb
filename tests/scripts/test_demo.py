"""The demo shows what it says: joint training starves the picture, and InfoReg feeds it."""

import json
from dataclasses import replace

import pytest
from helpers.decoded import remember

import main as program
from dataset.demo import Demo
from scripts.drawing import figures
from scripts.experiments.cells import cells
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.columns import read_columns

SHORT = "--epochs 4 --lr_step 3 --workers 0 --device cpu".split()  # of 20 epochs


@pytest.fixture(scope="module", autouse=True)
def shorter():
    """The demo without its row of the paper's window, of which nothing is said here."""
    experiment = EXPERIMENTS["demo"]
    with pytest.MonkeyPatch.context() as patch:

        def rows(setting):
            return [row for row in experiment.rows(setting) if "the paper's" not in row.label]

        patch.setitem(EXPERIMENTS, "demo", replace(experiment, rows=rows))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{label: the last epoch's test accuracies} of the demo's rows, and where the runs are."""
    folder = tmp_path_factory.mktemp("demo")
    places = "demo", [0], folder / "results", folder / "data", SHORT
    last = {}
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        for cell in cells(EXPERIMENTS["demo"], *places):
            if cell.row.program == "main.py":
                program.main(list(cell.argv[1:]))
                last[cell.row.label] = json.loads((cell.folder / "result.json").read_text())["last"]
    return last, places


def test_the_picture_learns_alone_starves_beside_the_sound_and_is_fed_by_inforeg(runs):
    last, _ = runs
    alone, joint, inforeg = (last[name] for name in ("visual alone", "Joint training", "InfoReg, accumulated window"))
    assert alone["visual"] > 0.9 and joint["visual"] < alone["visual"] - 0.25
    assert inforeg["visual"] > joint["visual"] + 0.1
    assert inforeg["accuracy"] > joint["accuracy"] + 0.04
    assert last["audio alone"]["audio"] < 0.7  # the sound cannot do it


def test_the_sound_is_held_under_inforeg_alone(runs):
    _, places = runs
    hold = {}
    for cell in cells(EXPERIMENTS["demo"], *places):
        if cell.row.program == "main.py":
            hold[cell.row.label] = read_columns(cell.folder, "last")
    assert hold["InfoReg, accumulated window"]["hold audio"] < 40 < 60 < hold["Joint training"]["hold audio"] < 130
    assert 60 < hold["InfoReg, accumulated window"]["hold visual"] < 130


def test_the_picture_that_is_drawn(runs, monkeypatch):
    _, places = runs
    kept = []
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda picture, *more: kept.append(picture) or save(picture, *more))
    assert figures.draw(EXPERIMENTS["demo"], *places).name == "demo_demo.svg"
    joint, inforeg, traces = kept[0].figure.axes
    assert [text.get_text() for text in joint.texts] == ["audio alone", "visual alone"]
    ends = [{line.get_label(): line.get_ydata()[-1] for line in axis.lines} for axis in (joint, inforeg)]
    last, _ = runs
    for end, label in zip(ends, ("Joint training", "InfoReg, accumulated window"), strict=True):
        assert [end[name] for name in ("fused", *Demo.forms)] == pytest.approx(
            [100 * last[label][name] for name in ("accuracy", *Demo.forms)]
        )
    assert len(traces.patches) >= 4  # the strips of the windows
