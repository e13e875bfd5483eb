"""The pictures of a run: what is drawn is what metrics.jsonl says."""

import math

import pytest
import torch
from helpers.runs import rows_of, train
from helpers.three import Three
from matplotlib.figure import Figure

from dataset import DATASETS
from main import main
from methods import METHODS
from methods.base import Method
from utils.runs import plots


@pytest.fixture
def saved(monkeypatch):
    """{name: its figure} of what is drawn meanwhile."""
    figures, save = {}, plots.save_figure

    def keep(figure, stem, title):
        figures[stem.name] = figure
        return save(figure, stem, title)

    monkeypatch.setattr(plots, "save_figure", keep)
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


def test_the_numbers_of_a_registered_method_are_drawn(tmp_path, monkeypatch, drawing, every_form, saved):
    monkeypatch.setitem(METHODS, "toy", Toy)
    monkeypatch.setitem(DATASETS, "three", Three)
    main(f"--dataset three --method toy --epochs 3 --out {tmp_path} --workers 0 --device cpu".split())
    folder = tmp_path / "three" / "toy" / "epochs=3" / "seed0"
    heads = {form: (folder / "figures" / f"method.{form}").read_bytes()[:5] for form in ("svg", "pdf", "png")}
    assert heads == {"svg": b"<?xml", "pdf": b"%PDF-", "png": b"\x89PNG\r"}
    coefficient, late = saved["method"].axes
    assert (coefficient.get_ylabel(), late.get_ylabel()) == ("coefficient", "late")
    rows = rows_of(folder)
    names = Three.modalities
    assert curves(coefficient) == {name: [row["coefficient"][name] for row in rows] for name in names}
    assert curves(coefficient) == {name: [k, 2 * k, 3 * k] for k, name in enumerate(names, 1)}
    for k, name in enumerate(names, 1):
        first, *others = curves(late)[name]
        assert math.isnan(first) and others == [k, k]
    assert [list(line.get_xdata()) for line in late.lines] == [[1, 2, 3]] * 3  # epochs, as people count them
    assert [text.get_text() for text in saved["method"].legends[0].get_texts()] == list(names)


def test_a_method_without_numbers_of_its_own_has_no_such_picture(demo, tmp_path, saved):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1", figures=True)
    assert "accuracy" in saved and "method" not in saved
    (row,), held = rows_of(folder), curves(saved["hold"].axes[0])
    assert {name: held[name] for name in row["hold"]} == {name: [hold] for name, hold in row["hold"].items()}
    assert not (folder / "figures" / "method.svg").exists()


def test_alpha_is_a_step_an_epoch_with_gaps_and_the_share_of_regulated_steps(tmp_path, every_form, saved):
    alpha, share = (
        {"audio": [None, 2.0, 3.0], "visual": [None, None, 1.5]},
        {"audio": [0, 1, 0.5], "visual": [0, 0, 0.25]},
    )
    plain = {"audio": 0.5, "visual": 0.5}
    rows = [
        {
            "epoch": e, "fisher_trace": plain, "prime_window": plain, "hold": plain, "distance": plain,
            "train": plain | {"accuracy": 0.5}, "test": plain | {"accuracy": 0.5},
            "alpha": {name: values[e] for name, values in alpha.items()},
            "regulated": {name: values[e] for name, values in share.items()},
        }
        for e in range(3)
    ]  # fmt: skip
    predictions = {"target": [0, 1], "last": [0, 0], "classes": ["a", "b"]}
    plots.draw(rows, tmp_path, "inforeg on demo, seed 0", predictions)
    (axes,) = saved["alpha"].axes
    for patch, (name, values) in zip(axes.patches, alpha.items(), strict=True):
        steps = patch.get_data()
        assert list(steps.edges) == [0.5, 1.5, 2.5, 3.5]  # an epoch is as wide as its number
        assert [None if math.isnan(value) else value for value in steps.values] == values, name
    shown = [text.get_text() for text in saved["alpha"].legends[0].get_texts()]
    assert shown == ["audio, in 50% of the steps", "visual, in 8% of the steps"]
    assert [text.get_text() for text in saved.pop("confusion").axes[0].texts] == ["100", "0", "100", "0"]
    for figure in saved.values():  # the caption is a property of the files
        titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
        assert not any(titles) and figure.legends and not any(axes.get_legend() for axes in figure.axes)
    svg = (tmp_path / "alpha.svg").read_text()
    assert (
        "<dc:title>alpha; inforeg on demo, seed 0</dc:title>" in svg
        and b"inforeg on demo" in (tmp_path / "alpha.png").read_bytes()
    )


def test_a_window_is_shaded_by_the_share_of_its_steps_and_the_legend_says_so():
    whole, part = Figure().subplots(), Figure().subplots()
    shares = [{"audio": 1.0, "visual": 0.0}, {"audio": 1 / 6, "visual": 1 / 2}, {"audio": 0.0, "visual": 1.0}]
    for axes, chosen in ((whole, shares[::2]), (part, shares)):
        trace = {"audio": 1.0, "visual": 2.0}
        plots.fisher_trace(axes, [{"epoch": e, "fisher_trace": trace, "prime_window": w} for e, w in enumerate(chosen)])
    found = {(patch.get_x() + 0.5, patch.get_y()): patch.get_alpha() for patch in part.patches}
    assert list(found) == [(1, 0), (2, 0), (2, 0.5), (3, 0.5)]
    every, sixth, half, _ = found.values()
    assert every == found[3, 0.5] > half > sixth > 0.1 and every - half == pytest.approx(every * 5 / 14)
    said = ["window open in every step", "window open in few steps"]
    assert part.get_legend_handles_labels()[1] == ["audio", "visual", *said]
    assert whole.get_legend_handles_labels()[1] == ["audio", "visual", said[0]]


def test_each_of_many_modalities_is_drawn_and_two_differ_without_colours():
    names = [f"sensor{number}" for number in range(8)]  # more than there are colours
    row = {"epoch": 0} | {split: dict.fromkeys(["accuracy", *names], 0.5) for split in ("train", "test")}
    row |= {"alpha": dict.fromkeys(names, 1.0), "regulated": dict.fromkeys(names, 0.5)}
    row |= {"fisher_trace": dict.fromkeys(names, 1.0), "prime_window": dict.fromkeys(names, False)}
    for plot, more in ((plots.fisher_trace, []), (plots.accuracy, ["fused"]), (plots.alpha, [])):
        axes = Figure().subplots()
        plot(axes, [row, row | {"epoch": 1}])
        labels = [label.partition(",")[0] for label in axes.get_legend_handles_labels()[1]]
        assert set(labels) - {"training"} == {*more, *names}, plot
        first, second = axes.get_legend_handles_labels()[0][len(more) :][:2]
        assert first.get_linestyle() != second.get_linestyle(), plot  # without their colours, too
