"""The picture of the demo: what joint training starves, what InfoReg gives back, and the windows in which it does."""

from collections.abc import Sequence

import numpy as np

from scripts.drawing.curves import ACCURACY, TRACE, Panel, lines, of, over_epochs, series, the, traces
from scripts.drawing.pictures import Picture, Runs
from utils.runs.plots import shade_windows, style


def demo(rows: Sequence[Runs]) -> Picture:
    """Test accuracy under joint training (a) and InfoReg with the accumulated window (b); its Fisher traces (c).

    Dotted: what each modality reaches alone. Shaded, in a strip of each modality's colour: its prime learning window,
    the darker the larger the share of the epoch's steps, in the mean of the seeds, in which it was open.
    """
    joint = the(rows, "joint")
    inforeg = next(runs for runs in of(rows, "inforeg") if runs.args.window == "accumulated")
    names = tuple(traces(joint))
    panels = [
        Panel(f"({letter}) {title}", "epoch", ACCURACY, accuracies(runs, names))
        for letter, title, runs in (("a", "joint training", joint), ("b", "InfoReg, accumulated window", inforeg))
    ]
    panels.append(Panel("(c) InfoReg", "epoch", TRACE, over_epochs(traces(inforeg), names)))
    picture = lines(rows, panels)
    axes = picture.figure.axes
    alone = {runs.args.modality: series(runs, "test", "accuracy")[:, -1].mean() for runs in of(rows, "unimodal")}
    for axis in axes[:2]:
        axis.set_ylim(0, 108)  # room for the highest label
        for name, value in alone.items():
            axis.axhline(100 * value, color=style(names.index(name))["color"], linestyle=":", linewidth=1)
            place = (0.99, 100 * value + 0.5)
            axis.annotate(f"{name} alone", place, xycoords=("axes fraction", "data"), va="bottom", ha="right")
    shade_windows(axes[2], [series(inforeg, "prime_window", name).mean(axis=0) for name in names], explain=True)
    axes[2].legend(frameon=False, fontsize="small")
    return picture


def accuracies(runs: Runs, names: Sequence[str]) -> dict:
    """The curves of the fused prediction and of each modality's read-out, in %."""
    shown: dict[str, np.ndarray] = {"fused": series(runs, "test", "accuracy")}
    shown |= {name: series(runs, "test", name) for name in names}
    return over_epochs({name: 100 * values for name, values in shown.items()}, names)
