"""Pictures of a run, drawn from the rows of its metrics.jsonl and from its predictions alone."""

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from utils.files import make_folder, write_atomically
from utils.metrics import confusion

# Okabe and Ito's palette: told apart with any colour vision and in grey print. The fused curve is black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Beside the colours, so that no curve is known by its colour alone.
MARKERS = ("o", "s", "^", "D", "v", "X")
DASHES = ("-", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2, 2, 2)))  # dotted: what is compared with
FUSED = {"color": "black", "marker": ".", "linestyle": "-"}
# Columns of a row that are drawn elsewhere, or not at all; whatever else has values by name is the method's own.
COMMON = {"train", "val", "test", "fisher_trace", "gradient_norm", "relative_change", "prime_window"}
COMMON |= {"alpha", "regulated", "distance", "hold"}
MOST_NAMED, MOST_NUMBERED = 40, 16  # classes of a confusion matrix
# The files of a figure, and what is left out of each, as it would differ the next time.
FORMS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


def style(place: int) -> dict:
    """Colour, marker and dash of the modality that is `place` in its data set's order."""
    place %= len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def nested(place: int, count: int) -> dict:
    """Widths of curve `place` of `count`: narrower than those drawn before, so that they stay in sight below it."""
    behind = (count - 1 - place) / max(1, count - 1)
    return {"linewidth": 1.3 + 2 * behind, "markersize": 3.5 + 4.5 * behind}


def save_figure(figure, stem: Path, title: str) -> Path:
    """Write a matplotlib Figure as <stem>.svg, .pdf and .png, and return the first.

    The title is a property of the files, for whoever writes the caption; it is not drawn. Text stays text in the first
    two, and the same figure gives the same bytes. The figure keeps the layout of the first, which takes a fifth of the
    time to find.

    Raises:
        RunError: if they cannot be written.
    """
    from matplotlib import rc_context  # here, since it takes seconds to load

    make_folder(stem.parent)
    # The salt names what is inside an SVG, instead of chance; 42 are TrueType fonts, which journals ask for.
    with rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none", "pdf.fonttype": 42}):
        for form, without in FORMS.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format=form, dpi=200, metadata={"Title": title} | without)
            figure.set_layout_engine("none")
            write_atomically(stem.with_name(f"{stem.name}.{form}"), drawn.getvalue())
    return stem.with_name(f"{stem.name}.svg")


def legend_below(figure, handles: Iterable, labels: Iterable[str], **look) -> None:
    """Put a legend below all axes, in as many columns as the figure has room for.

    The figure grows by its height, and to the width of the longest label, so that no axes shrink.
    """
    handles, labels = list(handles), list(labels)

    def put(columns: int):
        places = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        legend = figure.legend(handles, labels, **places | look)
        return legend, legend.get_window_extent().size / figure.dpi

    width, height = figure.get_size_inches()
    legend, (across, more) = put(1)
    for columns in range(min(len(labels), max(1, int(width // across))), 0, -1):
        legend.remove()
        legend, (across, more) = put(columns)
        if across <= width:
            break
    figure.set_size_inches(max(width, across), height + more)


def draw(rows: list[dict], folder: Path, title: str, predictions: Mapping[str, ArrayLike]) -> None:
    """Draw fisher_trace, accuracy and hold into `folder`, and what the method has recorded beside them.

    That is alpha of a method that regulates, and method, the columns that only this method has. `predictions` is what
    predictions.npz holds, and confusion is drawn of the fused ones of the last epoch. Each is written as `save_figure`
    does.
    """
    from matplotlib.figure import Figure  # here, since it takes seconds to load

    for name, plot in (("fisher_trace", fisher_trace), ("accuracy", accuracy), ("hold", hold), ("alpha", alpha)):
        if name == "alpha" and "alpha" not in rows[0]:
            continue
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        plot(axes, rows)
        axes.set(xlabel="epoch", xlim=(0.5, len(rows) + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        legend_below(figure, *axes.get_legend_handles_labels())  # where it hides no curve
        save_figure(figure, folder / name, f"{name}; {title}")
    if columns := own_columns(rows):
        figure = Figure(figsize=(6.4, 0.8 + 1.8 * len(columns)), layout="constrained")
        own(figure, rows, columns)
        save_figure(figure, folder / "method", f"numbers of the method; {title}")
    of_last = (predictions[name] for name in ("target", "last", "classes"))
    draw_confusion(*of_last, folder / "confusion", f"confusion matrix, last epoch; {title}")


def draw_confusion(target: ArrayLike, predicted: ArrayLike, classes: Sequence[str], stem: Path, title: str) -> None:
    """Write a confusion matrix as `save_figure` does: of each class (row) the share in % taken for each class (column).

    Of many classes neither numbers nor names find room, so that the colours alone remain.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    counts = confusion(target, predicted, count)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 2.4 + 0.42 * count), 9.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, label="share of the class (%)", shrink=0.8)
    number = "" if count <= MOST_NAMED else " (number, from 0)"
    axes.set(xlabel=f"predicted class{number}", ylabel=f"class{number}")
    if count <= MOST_NAMED:
        labels = [name if len(name) <= 20 else f"{name[:19]}…" for name in map(str, classes)]
        look = {"fontsize": 8, "parse_math": False}  # a $ in a name is a $
        axes.set_xticks(range(count), labels, rotation=90, **look)
        axes.set_yticks(range(count), labels, **look)
    if count <= MOST_NUMBERED:
        for row, column in np.ndindex(count, count):
            look = {"color": "white" if shares[row, column] > 55 else "black", "fontsize": 8}
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", **look)
    save_figure(figure, stem, title)


def own_columns(rows: list[dict]) -> list[str]:
    """The columns of a method's own (`columns` of methods/base.py, or its `on_epoch_end`) that hold a number."""
    columns = [name for name, values in rows[0].items() if isinstance(values, dict) and name not in COMMON]
    return [name for name in columns if any(value is not None for row in rows for value in row[name].values())]


def own(figure, rows: list[dict], columns: list[str]) -> None:
    """Small multiples: each column over the epochs, a line for each name in it; where it is None, a gap."""
    modalities = list(rows[0]["fisher_trace"])
    grid = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    shown = {}
    for axes, column in zip(grid, columns, strict=True):
        for name in rows[0][column]:
            values = [math.nan if row[column][name] is None else float(row[column][name]) for row in rows]
            look = style(modalities.index(name)) if name in modalities else FUSED
            (shown[name],) = axes.plot(_epochs(rows), values, **look, markersize=3, label=name)
        axes.set_ylabel(column.replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, shown.values(), shown)


def fisher_trace(axes, rows: list[dict]) -> None:
    """Figure 1: the trace of each encoder over the epochs; its prime learning windows are shaded in its colour."""
    names = list(rows[0]["fisher_trace"])
    for place, name in enumerate(names):
        axes.plot(_epochs(rows), [row["fisher_trace"][name] for row in rows], **style(place), markersize=4, label=name)
    shade_windows(axes, [[row["prime_window"][name] for row in rows] for name in names], explain=True)
    if all(trace > 0 for row in rows for trace in row["fisher_trace"].values()):
        axes.set_yscale("log")
    axes.set_ylabel("Fisher trace  Tr(F)")


def shade_windows(
    axes, opened: Sequence[Sequence[float]], colours: Sequence[str] = COLOURS, explain: bool = False
) -> None:
    """Shade the epochs in which prime learning windows were open, the deeper the larger the share of the steps.

    `opened` is that share by modality and epoch, 0 to 1. Each modality shades its own strip of the height, the first
    the lowest, so that windows open together stay visible. `explain`: the legend says what the depth means.
    """
    for place, (shares, colour) in enumerate(zip(opened, itertools.cycle(colours), strict=False)):
        strip = place / len(opened), (place + 1) / len(opened)
        for epoch, share in enumerate(shares, 1):
            if share:
                axes.axvspan(epoch - 0.5, epoch + 0.5, *strip, color=colour, alpha=depth(share), linewidth=0)
    every = {share for shares in opened for share in shares if share}
    kinds = {"window open in every step": (1, bool(every)), "window open in few steps": (0, any(s < 1 for s in every))}
    for label, (share, shown) in kinds.items():
        if explain and shown:
            axes.fill_between([], [], color="black", alpha=depth(share), linewidth=0, label=label)


def depth(share: float) -> float:
    """How opaque the shade of a window is that was open in a share of the steps: seen even in the smallest."""
    return 0.1 + 0.25 * share


def accuracy(axes, rows: list[dict]) -> None:
    """Test accuracy of the fused prediction (black) and of each modality's read-out; training accuracy dotted."""
    looks = {"accuracy": FUSED} | {name: style(place) for place, name in enumerate(rows[0]["fisher_trace"])}
    for name, look in looks.items():
        label = "fused" if name == "accuracy" else name
        test, train = ([100 * row[split][name] for row in rows] for split in ("test", "train"))
        axes.plot(_epochs(rows), test, **look, markersize=4, label=f"{label}, test")
        axes.plot(_epochs(rows), train, color=look["color"], linestyle=":", linewidth=1)
    axes.plot([], [], color="grey", linestyle=":", linewidth=1, label="training")
    axes.set(ylabel="accuracy (%)", ylim=(0, 101))


def hold(axes, rows: list[dict]) -> None:
    """How much of the way that its gradients asked for each encoder made; filled where it was regulated.

    A run by another optimizer than SGD has no such number (inforeg/movement.py): the distances are drawn.
    """
    column = "hold" if any(value is not None for row in rows for value in row["hold"].values()) else "distance"
    for place, name in enumerate(rows[0][column]):
        shown = [row for row in rows if row[column][name] is not None]
        look, values = style(place), [row[column][name] for row in shown]
        axes.plot(_epochs(shown), values, **look, markersize=4, markerfacecolor="white", label=name)
        held = [(row, value) for row, value in zip(shown, values, strict=True) if row.get("regulated", {}).get(name)]
        label = f"{name}, regulated" if held else None
        filled = look | {"linestyle": ""}
        axes.plot(_epochs([row for row, _ in held]), [value for _, value in held], **filled, markersize=4, label=label)
    if column == "hold":
        axes.axhline(1, color="grey", linestyle=":", linewidth=1)
        axes.set_ylabel("hold: distance moved / distance asked for")
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylabel("distance moved in the epoch  ||w||")


def alpha(axes, rows: list[dict]) -> None:
    """Mean regulation strength over the steps in which the encoder was regulated, a step an epoch; else a gap.

    The legend has the share of the steps, of all epochs, in which it was.
    """
    for place, name in enumerate(rows[0]["alpha"]):
        look = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)], "linewidth": 2}
        strengths = [math.nan if row["alpha"][name] is None else row["alpha"][name] for row in rows]
        share = sum(row["regulated"][name] for row in rows) / len(rows)
        edges = [row["epoch"] + 0.5 for row in rows] + [len(rows) + 0.5]
        axes.stairs(strengths, edges, baseline=None, **look, label=f"{name}, in {share:.0%} of the steps")
    axes.set_ylabel("regulation strength  α")
    if not any(value is not None for row in rows for value in row["alpha"].values()):
        axes.set_ylim(0, 1)  # nothing to show, on an axis that does not look like something


def _epochs(rows: list[dict]) -> list[int]:
    return [row["epoch"] + 1 for row in rows]
