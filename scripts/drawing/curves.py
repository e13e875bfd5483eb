"""The figures made of curves over the epochs: 1, 3, 5 and 10; those over a flag are in sweeps.py."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from scripts.drawing.charts import LOGARITHMS, band
from scripts.drawing.pictures import Picture, Runs
from utils.runs.files import read_epochs
from utils.runs.plots import FUSED, style

TRACE = "Fisher trace  Tr(F)\n(mean squared gradient norm)"
NORM = "gradient norm  ||g||\n(mean over an epoch's steps)"
ACCURACY = "test accuracy (%)"
COMPARED = {"linestyle": ":", "markerfacecolor": "white"}  # joint training, where InfoReg stands beside it


class Curve(NamedTuple):
    """A value at each x for every seed."""

    x: Sequence[float]
    values: np.ndarray  # (seeds, len(x))
    style: dict
    aside: float = 0.0  # how far beside x it is drawn


class Panel(NamedTuple):
    """Curves in one pair of axes, which these words label."""

    title: str
    x: str
    y: str
    curves: dict[str, Curve]


def figure1(rows: Sequence[Runs]) -> Picture:
    """Tr(F) of each encoder and of the model, which is their sum, trained together (a); Tr(F) of each alone (b)."""
    joint = traces(the(rows, "joint"))
    alone = {name: values for runs in of(rows, "unimodal") for name, values in traces(runs).items()}
    together = Panel("(a) trained together", "epoch", TRACE, over_epochs(with_sum(joint), joint))
    return lines(
        rows, [together, Panel("(b) each trained alone", "epoch", TRACE, over_epochs(alone, joint))], sharey=True
    )


def figure3(rows: Sequence[Runs]) -> Picture:
    """Joint training: each encoder's gradient norm (a) and trace (b), and their gaps, the largest less the smallest."""
    panels = []
    for title, column, label in (("(a) gradient", "gradient_norm", NORM), ("(b) information", "fisher_trace", TRACE)):
        sizes = traces(the(rows, "joint"), column)
        gap = np.ptp(list(sizes.values()), axis=0)
        panels.append(Panel(title, "epoch", label, over_epochs({"gap (largest - smallest)": gap} | sizes, sizes)))
    return lines(rows, panels)


def figure5(rows: Sequence[Runs]) -> Picture:
    """Accuracies (a) and Tr(F) (b) under InfoReg; Tr(F) of the slow modality against joint training's (c).

    The slow modality is the one whose read-out is right least often after joint training, in the mean of the seeds.
    """
    joint, inforeg = the(rows, "joint"), the(rows, "inforeg")
    names = tuple(traces(joint))
    slow = min(names, key=lambda name: series(joint, "test", name)[:, -1].mean())
    accuracies, slow_traces = {}, {}
    for runs, look in ((inforeg, {}), (joint, COMPARED)):
        shown = {"fused": series(runs, "test", "accuracy")} | {name: series(runs, "test", name) for name in names}
        for name, curve in over_epochs(shown, names, look).items():
            accuracies[f"{name}, {runs.label}"] = curve._replace(values=100 * curve.values)
        (curve,) = over_epochs({slow: traces(runs)[slow]}, names, look).values()
        slow_traces[runs.label] = curve
    return lines(
        rows,
        [
            Panel("(a) accuracy", "epoch", ACCURACY, accuracies),
            Panel(f"(b) {inforeg.label}", "epoch", TRACE, over_epochs(with_sum(traces(inforeg)), names)),
            Panel(f"(c) {slow}, the slow modality", "epoch", TRACE, slow_traces),
        ],
    )


def figure10(rows: Sequence[Runs]) -> Picture:
    """Figure 1 (a), for the data set that the paper shows in its supplement."""
    joint = traces(the(rows, "joint"))
    return lines(rows, [Panel("trained together", "epoch", TRACE, over_epochs(with_sum(joint), joint))])


def of(rows: Sequence[Runs], method: str) -> list[Runs]:
    """The rows of a method, joint training without unimodal losses."""
    return [runs for runs in rows if runs.args.method == method]


def the(rows: Sequence[Runs], method: str) -> Runs:
    """The only row of a method."""
    (runs,) = of(rows, method)
    return runs


def series(runs: Runs, column: str, name: str) -> np.ndarray:
    """(seeds, epochs) of one number in the lines of metrics.jsonl; NaN for what was not finite.

    Runs that have stopped early (--patience) have other lengths: the epochs are those that all of them have.
    """
    rows = [read_epochs(folder, "fisher_trace", column) for folder in runs.folders]
    shared = min(map(len, rows))
    values = [[row[column][name] for row in of_seed[:shared]] for of_seed in rows]
    return np.array(values, dtype=float)  # null becomes NaN


def traces(runs: Runs, column: str = "fisher_trace") -> dict[str, np.ndarray]:
    """{modality: (seeds, epochs)} of one number that every encoder has."""
    names = read_epochs(runs.folders[0], "fisher_trace")[0]["fisher_trace"]
    return {name: series(runs, column, name) for name in names}


def with_sum(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum over the modalities, which is the model's, before its parts."""
    return {"model": sum(numbers.values())} | numbers


def over_epochs(
    numbers: dict[str, np.ndarray], modalities: Sequence[str], look: dict | None = None
) -> dict[str, Curve]:
    """Curves in the style of their modality, whichever panel they stand in; black for what is no modality."""
    styles = {name: style(place) for place, name in enumerate(modalities)}
    return {
        name: Curve(range(1, values.shape[1] + 1), values, styles.get(name, FUSED) | (look or {}))
        for name, values in numbers.items()
    }


def lines(
    rows: Sequence[Runs],
    panels: Sequence[Panel],
    sharey: bool | str = False,
    beside: int | None = None,
    bands: bool = True,
) -> Picture:
    """Panels side by side: the mean over the seeds, and a band of one standard deviation to both sides (`band`).

    `beside`: how many stand in a line; by default all. `bands`: False where so many would hide one another.
    """
    across = beside or len(panels)
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(1 + 4.3 * across, 4 * down), layout="constrained")
    axes = figure.subplots(down, across, sharey=sharey, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    numbers: list[Sequence] = []
    for place, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
        log = panel.y in (TRACE, NORM) and all((curve.values > 0).all() for curve in panel.curves.values())
        for name, (x, values, look, aside) in panel.curves.items():
            at, (mean, low, high) = np.add(x, aside), band(values, log)
            axis.plot(at, mean, label=name, **{"markersize": 4 if look["linestyle"] else 6} | look)
            if bands and look["linestyle"]:
                axis.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)
            elif bands:  # points, which have nothing between them
                axis.vlines(at, low, high, color=look["color"], alpha=0.4)
            deviations = values.std(axis=0, ddof=1).tolist() if len(values) > 1 else [None] * len(mean)
            columns = zip(x, mean.tolist(), deviations, *values.tolist(), strict=True)
            numbers += [(panel.title, name, *column) for column in columns]
        axis.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
        if panel.x == "epoch":
            axis.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axis.set_yscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        if sharey and place % across:  # the first of its line has the labels
            axis.set_ylabel("")
            axis.tick_params(axis="y", left=False, labelleft=False)
        if panel.curves:
            axis.legend(frameon=False, fontsize="small")
    seeds = [folder.name for folder in rows[0].folders]
    drawn = "mean ± standard deviation" if bands else "mean"
    note = f"{drawn} of {len(seeds)} seeds" if len(seeds) > 1 else seeds[0]
    if bands and len(seeds) > 1 and any(axis.get_yscale() == "log" for axis in axes[: len(panels)]):
        note += LOGARITHMS
    if len(seeds) > 1:
        figure.supxlabel(note, fontsize="small")
    return Picture(figure, note, ("panel", "curve", "x", "mean", "deviation", *seeds), numbers)
