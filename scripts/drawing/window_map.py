"""Where a regulation acts: its gain over joint training by learning rate, steps per epoch and K, with the hold."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset import DATASETS
from scripts.drawing.pictures import Picture, Runs
from utils.runs.files import read_epochs, read_rule
from utils.runs.regulation import regulated

HEADER = ("K", "lr", "batch_size", "steps", "weak_modality", "gain_weak", "gain_fused", "hold")


class Place(NamedTuple):
    """A setting of the map: the last epoch's accuracies in % by name, means over seeds, and the least hold."""

    accuracies: dict[str, float]
    hold: float


def window_map(rows: Sequence[Runs]) -> Picture:
    """A column for each K: the gain in % of the weakest modality's read-out (above) and of the fused accuracy (below).

    The weakest modality is the one whose read-out is right least often in joint training, in the mean of the map. The
    contours are those of `hold`, the mean over the regulated epochs of the encoder that was held most.
    """
    joint, inforeg = ([runs for runs in rows if runs.args.method == method] for method in ("joint", "inforeg"))
    train, *_ = DATASETS[joint[0].args.dataset].read_splits(joint[0].args)
    steps = {runs.args.batch_size: math.ceil(len(train) / runs.args.batch_size) for runs in joint}
    level = {(runs.args.lr, runs.args.batch_size): place(runs) for runs in joint}
    names = [name for name in level[next(iter(level))].accuracies if name != "accuracy"]
    weak = min(names, key=lambda name: np.mean([each.accuracies[name] for each in level.values()]))
    thresholds = sorted({runs.args.threshold for runs in inforeg})
    rates, sizes = (sorted(values) for values in ({lr for lr, _ in level}, {size for _, size in level}))
    sizes = sizes[::-1]  # the fewest steps first
    gains = {column: np.full((len(thresholds), len(rates), len(sizes)), np.nan) for column in (weak, "accuracy")}
    hold = np.full((len(thresholds), len(rates), len(sizes)), np.nan)
    for runs in inforeg:
        args, own = runs.args, place(runs)
        at = thresholds.index(args.threshold), rates.index(args.lr), sizes.index(args.batch_size)
        hold[at] = own.hold
        for column, values in gains.items():
            values[at] = own.accuracies[column] - level[args.lr, args.batch_size].accuracies[column]
    figure = Figure(figsize=(1.5 + 3.6 * len(thresholds), 7), layout="constrained")
    axes = figure.subplots(2, len(thresholds), squeeze=False, sharex=True, sharey=True)
    largest = max(np.nanmax(np.abs(values)) for values in gains.values())
    for row, (column, values) in zip(axes, gains.items(), strict=True):
        for k, axis in enumerate(row):
            drawn = heat(axis, values[k], hold[k], largest)
            axis.set_xticks(range(len(sizes)), [str(steps[size]) for size in sizes])
            axis.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
            axis.set_title(f"{'fused' if column == 'accuracy' else column}, K {thresholds[k]:g}")
        row[0].set_ylabel("learning rate")
    for axis in axes[-1]:
        axis.set_xlabel("steps per epoch")
    figure.colorbar(drawn, ax=axes, label="InfoReg less joint training (points of test accuracy); contours: hold")
    numbers = [
        (threshold, rate, size, steps[size], weak, *(float(v[k, i, j]) for v in (*gains.values(), hold)))
        for k, threshold in enumerate(thresholds)
        for i, rate in enumerate(rates)
        for j, size in enumerate(sizes)
    ]
    seeds = len(rows[0].folders)
    return Picture(figure, f"means of {seeds} seeds" if seeds > 1 else rows[0].folders[0].name, HEADER, numbers)


def place(runs: Runs) -> Place:
    """The means over a row's seeds."""
    epochs = [read_epochs(folder, "fisher_trace", "hold") for folder in runs.folders]
    names = ("accuracy", *epochs[0][0]["fisher_trace"])
    results = [read_rule(folder, "last", *names) for folder in runs.folders]
    holds = [[regulated(of_seed, name).hold for name in names[1:]] for of_seed in epochs]
    least = [min((hold for hold in of_seed if hold is not None), default=math.inf) for of_seed in holds]
    return Place({name: 100 * float(np.mean([r[name] for r in results])) for name in names}, float(np.mean(least)))


def heat(axis: Axes, values: np.ndarray, hold: np.ndarray, largest: float):
    """The values as colours and numbers, the hold as contours; returns what a colour bar needs."""
    drawn = axis.imshow(values, origin="lower", aspect="auto", cmap="PuOr", vmin=-largest, vmax=largest)
    if min(hold.shape) > 1 and np.ptp(hold) > 0:
        lines = axis.contour(hold, levels=5, colors="black", linewidths=0.8)
        axis.clabel(lines, fmt="%.2f", fontsize="x-small")
    paper = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "boxstyle": "round,pad=0.15"}
    for (i, j), value in np.ndenumerate(values):
        words = f"{value:+.1f}\nhold {hold[i, j]:.2f}"
        axis.text(j, i - 0.2, words, ha="center", va="center", fontsize="small", bbox=paper)
    return drawn
