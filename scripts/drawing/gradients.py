"""Figure 4: do the gradients of different batches point the same way?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from scripts.drawing.pictures import Picture, Runs
from scripts.trained.gradients import Measured, measure, pairs, summary
from scripts.trained.restore import places
from utils.runs.plots import style

HEADER = ("setting", "run", "epochs", "modality", "next_window_open", "batch", "other_batch", "cosine")


def figure4(rows: Sequence[Runs]) -> Picture:
    """The cosines at the last weights of every run."""
    with tqdm(total=sum(len(runs.folders) for runs in rows), desc="gradients", unit="run", disable=None) as bar:

        def each(runs: Runs, folder: Path) -> Measured:
            measured = measure(folder / "last.pt", places(runs.args))
            bar.update()
            return measured

        return picture(rows, [[each(runs, folder) for folder in runs.folders] for runs in rows])


def picture(rows: Sequence[Runs], measured: Sequence[Sequence[Measured]]) -> Picture:
    """A line of panels for each row: the matrices of its first seed, and the pairs of all its seeds.

    `measured`: by row and seed.
    """
    names = tuple(measured[0][0].cosines)
    figure = Figure(figsize=(1 + 3.6 * (len(names) + 1), 4 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(names) + 1, squeeze=False)
    numbers: list[Sequence] = []
    for runs, seeds, line in zip(rows, measured, axes, strict=True):
        *matrices, histogram = line
        for axis, name in zip(matrices, names, strict=True):
            image = draw_matrix(axis, name, seeds[0])
        figure.colorbar(image, ax=matrices, label="cosine similarity", shrink=0.8)
        draw_histogram(histogram, {name: np.concatenate([pairs(m.cosines[name]) for m in seeds]) for name in names})
        histogram.set_title(runs.label)
        for folder, seed in zip(runs.folders, seeds, strict=True):
            for name, matrix in seed.cosines.items():
                for one, other in zip(*np.triu_indices(len(matrix), k=1), strict=True):
                    where = (runs.label, folder.name, seed.epochs, name, name in seed.opened)
                    numbers.append((*where, one + 1, other + 1, float(matrix[one, other])))
    first, count = rows[0].folders[0].name, len(rows[0].folders)
    note = f"{first}'s matrices, mean ± standard deviation of the pairs" + (f" of {count} seeds" if count > 1 else "")
    return Picture(figure, note, HEADER, numbers)


def draw_matrix(axis, name: str, measured: Measured):
    """The cosines of every two batches as colours; returns the image."""
    matrix = measured.cosines[name]
    end = len(matrix) + 0.5
    image = axis.imshow(matrix, "RdBu_r", vmin=-1, vmax=1, extent=(0.5, end, end, 0.5))
    state = "open" if name in measured.opened else "closed"
    after = f"{measured.epochs} epoch{'s' * (measured.epochs != 1)}"
    axis.set(xlabel="batch", ylabel="batch", title=f"{name} after {after};\nthe next epoch's window: {state}")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.get_major_locator().set_params(integer=True)
    return image


def draw_histogram(axis, pooled: dict[str, np.ndarray]) -> None:
    """The share of the pairs at each cosine, a line for each modality."""
    bins = np.histogram_bin_edges(np.concatenate(list(pooled.values())), bins=30)
    for place, (name, values) in enumerate(pooled.items()):
        look = {key: value for key, value in style(place).items() if key != "marker"}
        share = np.full(len(values), 100 / len(values))
        axis.hist(values, bins, weights=share, histtype="step", label=f"{name}: {summary(values)}", **look)
    axis.axvline(0, color="grey", linewidth=1)
    axis.set(xlabel="cosine similarity of two batches", ylabel="share of the pairs (%)")
    axis.margins(y=0.3)  # room for the legend
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
