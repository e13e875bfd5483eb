"""Training on chosen samples: accuracy and the lead of a modality over the labels, the modality gap over the epochs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from scripts.drawing.curves import Curve, Panel, lines
from scripts.drawing.figures import by_row
from scripts.drawing.pictures import Runs, save
from scripts.drawing.sweeps import Read, by_rule, number_axis
from scripts.experiments.request import Request
from scripts.experiments.subsets import Study, Subset, label, row_label
from scripts.results.compared import Right, right_of
from scripts.results.significance import interval
from utils.runs.files import read_epochs, read_rule
from utils.runs.plots import COLOURS, FUSED, style

GAP = "modality gap\n(distance of the modalities' centres)"


def draw_subsets(study: Study, wanted: Request, rule: str) -> Path | None:
    """Write <out>/figures/<name>_<dataset>.svg, .pdf, .png and .csv; returns the first.

    For each method a panel of its accuracy, with a curve for each strategy and 95% bootstrap intervals beside its
    points, and below it one of the lead of the modality that dominates once all samples are labelled; then the
    modality gap of the pretraining with and without prototypes, epoch by epoch. A strategy whose runs are not all there
    is left out; None if none is.
    """
    rows = {runs.label: runs for runs in by_row(wanted.cells(study.dataset))}
    read, y = by_rule(rule)
    panels = [over_budgets(study, rows, method, read, y) for method in study.methods]
    if not any(panel.curves for panel in panels):
        return None
    if name := leading(study, rows, rule):
        y = f"{name} ahead of the best other read-out (points)"
        panels += [over_budgets(study, rows, method, ahead(name, rule), y) for method in study.methods]
    picture = lines(list(rows.values()), [*panels, gaps(study)], "row", len(study.methods), bands=False)
    known = {}
    for axis, panel in zip(picture.figure.axes, panels, strict=False):
        axis.set_xscale("log")  # each budget is a multiple of the one before, as a rule
        number_axis(axis, {budget: float(budget) for budget in study.budgets})
        known |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
        if panel.curves:  # one legend for all
            axis.get_legend().remove()
        if name and panel.y == y:
            axis.axhline(0, color="grey", linestyle=":", linewidth=1)
    right = right_of(wanted, study.dataset, rule)
    for axis, method in zip(picture.figure.axes, study.methods, strict=False):
        draw_intervals(axis, study, right, method)
    picture.figure.legend(known.values(), known.keys(), loc="outside right upper", frameon=False)
    experiment = wanted.experiment
    stem = Path(study.out) / "figures" / f"{experiment.name}_{study.dataset}"
    return save(picture, stem, f"{experiment.title}; {study.dataset}, {picture.note}")


def over_budgets(study: Study, rows: Mapping[str, Runs], method: str, read: Read, y: str) -> Panel:
    """A number of a method's runs over the budgets, a curve for each strategy."""
    curves: dict[str, Curve] = {}
    for place, name in enumerate(study.names):
        of_name = [rows.get(row_label(method, name, budget)) for budget in study.budgets]
        if all(of_name):
            values = np.array([[read(folder) for folder in runs.folders] for runs in of_name]).T
            curves[name] = Curve(study.budgets, values, look(place))
    return Panel(label(method), "labels", y, curves)


def draw_intervals(axis: Axes, study: Study, right: Right, method: str) -> None:
    """A line from end to end of the interval of each accuracy, those of one budget side by side."""
    limits = axis.get_xlim()  # which the lines would widen to 0
    for place, name in enumerate(study.names):
        aside = 1.015 ** (place - (len(study.names) - 1) / 2)
        for budget in study.budgets:
            if (row := row_label(method, name, budget)) in right:
                low, high = interval(right[row])
                axis.vlines(budget * aside, 100 * low, 100 * high, color=look(place)["color"], alpha=0.4, linewidth=1)
    axis.set_xlim(limits)


def leading(study: Study, rows: Mapping[str, Runs], rule: str) -> str | None:
    """The modality whose read-out is right most often after training on all labels, in the mean of methods and seeds.

    None where these runs are missing, or there is one modality only.
    """
    every = [rows.get(f"{label(method)}, all labels") for method in study.methods]
    found = [read_rule(folder, rule) for runs in every if runs for folder in runs.folders]
    names = [name for name in study.modalities if all(name in result for result in found)]
    if not found or len(names) < 2:
        return None
    return max(names, key=lambda name: sum(result[name] for result in found))


def ahead(name: str, rule: str) -> Callable[[Path], float]:
    """What reads from a run's folder by how many points the read-out of `name` is ahead of the best other one."""

    def read(folder: Path) -> float:
        names = read_epochs(folder, "fisher_trace")[0]["fisher_trace"]
        result = read_rule(folder, rule, *names)
        return 100 * (result[name] - max(result[other] for other in names if other != name))

    return read


def gaps(study: Study) -> Panel:
    """The modality gap, in the mean of the modalities, after every epoch of the pretraining."""
    curves = {}
    for name, subset, look in (
        ("with prototypes", Subset.of("random"), FUSED),
        ("without", Subset.of("random-no-prototypes"), FUSED | {"linestyle": "--", "marker": "s"}),
    ):
        folders = [study.folder(subset, seed) for seed in study.seeds]
        if all((folder / "metrics.jsonl").exists() for folder in folders):
            every = [read_epochs(folder, "modality_gap") for folder in folders]
            seeds = [[np.mean(list(row["modality_gap"].values())) for row in rows] for rows in every]
            epochs = min(map(len, seeds))
            values = np.array([rows[:epochs] for rows in seeds])
            curves[name] = Curve(range(1, epochs + 1), values, look)
    return Panel("pretraining without labels", "epoch", GAP, curves)


def look(place: int) -> Mapping[str, object]:
    """A look of its own for each strategy; dotted once the colours are used up."""
    return style(place) | ({"linestyle": ":"} if place >= len(COLOURS) else {})
