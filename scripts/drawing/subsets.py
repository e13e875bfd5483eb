"""Accuracy against the number of labels, a curve for each strategy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scripts.drawing.curves import Curve, Panel, lines
from scripts.drawing.figures import by_row
from scripts.drawing.pictures import save
from scripts.drawing.sweeps import by_rule, number_axis
from scripts.experiments.subsets import Study, label
from utils.runs.plots import COLOURS, style


def draw_subsets(study: Study, rule: str) -> Path | None:
    """Write <out>/figures/<name>_<dataset>.svg, .pdf, .png and .csv, a panel for each method; returns the first.

    A strategy whose runs are not all there is left out; None if none is.
    """
    wanted = study.request()
    rows = {runs.label: runs for runs in by_row(wanted.cells(study.dataset))}
    read, y = by_rule(rule)
    panels = []
    for method in study.methods:
        curves: dict[str, Curve] = {}
        for place, name in enumerate(study.names):
            of_name = [rows.get(f"{label(method)}, {name}, {budget} labels") for budget in study.budgets]
            if all(of_name):
                values = np.array([[read(folder) for folder in runs.folders] for runs in of_name]).T
                curves[name] = Curve(study.budgets, values, look(place))
        if curves:
            panels.append(Panel(label(method), "labels", y, curves))
    if not panels:
        return None
    picture = lines(list(rows.values()), panels, sharey=True)
    for axis in picture.figure.axes:
        number_axis(axis, {budget: float(budget) for budget in study.budgets})
    experiment = wanted.experiment
    stem = Path(study.out) / "figures" / f"{experiment.name}_{study.dataset}"
    return save(picture, stem, f"{experiment.title}; {study.dataset}, {picture.note}")


def look(place: int) -> Mapping[str, object]:
    """A look of its own for each strategy; dotted once the colours are used up."""
    return style(place) | ({"linestyle": ":"} if place >= len(COLOURS) else {})
