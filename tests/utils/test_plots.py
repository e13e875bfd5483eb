"""The pictures of a run: what is drawn is what metrics.jsonl says."""

import math

import matplotlib.figure
import pytest
import torch
from helpers.runs import rows_of, train
from helpers.three import Three

from dataset import DATASETS
from main import main
from methods import METHODS
from methods.base import Method


@pytest.fixture
def saved(monkeypatch):
    """{file name: its figure} of what is drawn meanwhile."""
    figures, save = {}, matplotlib.figure.Figure.savefig

    def keep(figure, path, **settings):
        figures[path.name] = figure
        save(figure, path, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


class Toy(Method):
    """What a user's method may record: a number of every step, one that comes late, one that never does."""

    columns = ("coefficient", "late", "never")

    def after_backward(self, output) -> None:
        super().after_backward(output)
        values = torch.arange(1.0, 1 + len(self.model.modalities))
        self.note("coefficient", values * (1 + self.epoch))
        if self.epoch:
            self.note("late", values)


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_the_numbers_of_a_registered_method_are_drawn(tmp_path, monkeypatch, saved):
    monkeypatch.setitem(METHODS, "toy", Toy)
    monkeypatch.setitem(DATASETS, "three", Three)
    main(f"--dataset three --method toy --epochs 3 --out {tmp_path} --workers 0 --device cpu".split())
    folder = tmp_path / "three" / "toy" / "epochs=3" / "seed0"
    assert (folder / "figures" / "method.png").read_bytes().startswith(b"\x89PNG")
    coefficient, late = saved["method.png"].axes
    assert (coefficient.get_ylabel(), late.get_ylabel()) == ("coefficient", "late")
    rows = rows_of(folder)
    names = Three.modalities
    assert curves(coefficient) == {name: [row["coefficient"][name] for row in rows] for name in names}
    assert curves(coefficient) == {name: [k, 2 * k, 3 * k] for k, name in enumerate(names, 1)}
    for k, name in enumerate(names, 1):
        first, *others = curves(late)[name]
        assert math.isnan(first) and others == [k, k]
    assert [list(line.get_xdata()) for line in late.lines] == [[1, 2, 3]] * 3  # epochs, as people count them
    assert [text.get_text() for text in saved["method.png"].legends[0].get_texts()] == list(names)


def test_a_method_without_numbers_of_its_own_has_no_such_picture(demo, tmp_path, saved):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1", figures=True)
    assert "accuracy.png" in saved and "method.png" not in saved
    (row,), held = rows_of(folder), curves(saved["hold.png"].axes[0])
    assert {name: held[name] for name in row["hold"]} == {name: [hold] for name, hold in row["hold"].items()}
    assert not (folder / "figures" / "method.png").exists()
