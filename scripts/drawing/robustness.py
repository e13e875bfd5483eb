"""Accuracy against the level of each corruption, a panel each."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scripts.results.robustness import Row, accuracies
from utils.runs.plots import COLOURS, save_figure

LINES = [dict(color=colour, linestyle=style) for style in ("-", "--", ":", "-.") for colour in COLOURS]


def draw(rows: Sequence[Row], stem: Path) -> None:
    """Draw a panel for each corruption, a line for each setting, into <stem>.svg, .pdf and .png.

    Bands are one standard deviation over the seeds.
    """
    panels = accuracies(rows)
    columns = min(4, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * height + 0.8), layout="constrained")
    axes = figure.subplots(height, columns, sharey=True, squeeze=False)
    look = dict(zip(dict.fromkeys(row.setting for row in rows), itertools.cycle(LINES), strict=False))
    lines = {}
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (corruption, settings) in zip(axes.flat, panels.items(), strict=False):
        for setting, values in settings.items():
            _, method, tag = setting
            label = method if tag == "default" else f"{method}, {tag}"
            lines[label] = draw_line(axis, values, look[setting])
        axis.set_title(corruption)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    beside = max(1, 30 * columns // (5 + max(map(len, lines))))  # labels that fit, a panel having room for 30 letters
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=beside, frameon=False)
    save_figure(figure, stem, f"Accuracy under corruption, {rows[0].setting[0]}")


def draw_line(axis, values: dict[str, list[float]], look: dict):
    """The mean over the seeds at each level, and its band; returns the line."""
    mean = np.array([np.mean(seeds) for seeds in values.values()])
    spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values.values()])
    (line,) = axis.plot(list(values), mean, marker="o", markersize=2.5, **look)
    axis.fill_between(list(values), mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    return line
