"""Accuracy against the level of each corruption, a panel each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scripts.results.folder import Setting
from scripts.results.robustness import Row, accuracies
from utils.runs.plots import COLOURS, MARKERS, legend_below, nested, save_figure

LOOKS = [
    dict(color=colour, linestyle=dash, marker=marker)
    for shift, dash in enumerate(("-", "--", ":", "-."))
    for colour, marker in zip(COLOURS, MARKERS[shift:] + MARKERS[:shift], strict=True)
]


def draw(rows: Sequence[Row], labels: Mapping[Setting, str], note: str, stem: Path) -> None:
    """Draw a panel for each corruption, a line for each setting, into <stem>.svg, .pdf and .png.

    `labels`: the settings' names; `note` stands above them. Bands are one standard deviation over the seeds.
    """
    panels = accuracies(rows)
    columns = min(4, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * height), layout="constrained")
    axes = figure.subplots(height, columns, sharey=True, squeeze=False)
    names = list(dict.fromkeys(row.setting for row in rows))
    look = {name: LOOKS[k % len(LOOKS)] | nested(k, len(names)) for k, name in enumerate(names)}
    lines = {}
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (corruption, settings) in zip(axes.flat, panels.items(), strict=False):
        for setting, values in settings.items():
            lines[labels[setting]] = draw_line(axis, values, look[setting])
        axis.set_title(corruption)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    if any(len(seeds) > 1 for settings in panels.values() for values in settings.values() for seeds in values.values()):
        note = f"{note}\nBands: one standard deviation over the seeds.".strip()
    legend_below(figure, lines.values(), lines, title=note)
    save_figure(figure, stem, f"Accuracy under corruption, {rows[0].setting[0]}")


def draw_line(axis, values: dict[str, list[float]], look: dict):
    """The mean over the seeds at each level, and its band; returns the line."""
    mean = np.array([np.mean(seeds) for seeds in values.values()])
    spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values.values()])
    (line,) = axis.plot(list(values), mean, **look)
    axis.fill_between(list(values), mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    return line
