"""Curves over the epochs, and settings side by side: inline SVG in the page's own colours and font, a few kilobytes."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from utils.runs.plots import shade_windows

WIDTH, HEIGHT = 480, 250  # in pixels, which are matplotlib's points
ROW, ACROSS, POINT = 48, (14, 452), 8  # where settings are compared: the height of one, left and width, a mark
AREA = (50 / WIDTH, 38 / HEIGHT, 420 / WIDTH, 202 / HEIGHT)  # of the curves: left, bottom, width, height
LOGARITHMS = " (of the logarithms on a logarithmic axis)"  # which the standard deviation of a band is of
TEXT = "currentColor"  # black on white, white on black
# Colours that only the page knows. Matplotlib draws with these stand-ins, which no palette has.
STAND_INS = {TEXT: "#010203", "var(--faint)": "#010204", "var(--line)": "#010205", "var(--page)": "#010206"}


@dataclass(frozen=True)
class Curve:
    """One value an epoch, None where there is none: the mean over seeds, and the ends of the band about it."""

    name: str
    colour: str
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    open: Sequence[float] = ()  # the share of the steps in which its prime learning window was open


def chart(curves: Sequence[Curve], y_label: str, description: str, log: bool = False, top: float = 100) -> Markup:
    """The picture of `plot`; `description` is what a screen reader says."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    with rc_context({"svg.fonttype": "none", "font.size": 13}):
        plot(figure.add_axes(AREA), curves, y_label, log, top)
        return svg_of(figure, HEIGHT, description)


@dataclass(frozen=True)
class Mark:
    """A value and its interval beside the name of its row; a control is drawn hollow."""

    value: float
    low: float
    high: float
    colour: str
    hollow: bool = False


def compare(rows: Sequence[tuple[str, Sequence[Mark]]], x_label: str, description: str, zero: bool = False) -> Markup:
    """A picture of a row for each name, which stands above its marks; `zero`: an axis about 0, with a line there."""
    inner, height = ROW * len(rows), 54 + ROW * len(rows)
    ends = [abs(end) for _, marks in rows for mark in marks for end in (mark.low, mark.high)]
    left, right = (-1.1 * max([1.0, *ends]), 1.1 * max([1.0, *ends])) if zero else (0, 100)
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    with rc_context({"svg.fonttype": "none", "font.size": 13}):
        axis = figure.add_axes((ACROSS[0] / WIDTH, 48 / height, ACROSS[1] / WIDTH, inner / height))
        axis.set(xlim=(left, right), ylim=(len(rows) - 0.5, -0.5), yticks=[], xlabel=x_label)
        for place, (name, marks) in enumerate(rows):
            axis.text(0, place - 0.25, name, transform=axis.get_yaxis_transform(), va="center", color=STAND_INS[TEXT])
            for k, mark in enumerate(marks):
                colour, y = STAND_INS.get(mark.colour, mark.colour), place - 0.04 + 0.36 * (k + 0.5) / len(marks)
                axis.plot([mark.low, mark.high], [y, y], color=colour, linewidth=2, alpha=0.5)
                size = POINT * (right - left) / ACROSS[1], POINT / ROW  # a circle; markers refer to parts by name
                face = STAND_INS["var(--page)"] if mark.hollow else colour
                axis.add_patch(
                    Ellipse((mark.value, y), *size, edgecolor=colour, facecolor=face, linewidth=1.5, zorder=3)
                )
        if zero:
            axis.axvline(0, color=STAND_INS["var(--faint)"], linewidth=1)
        dress(axis)
        axis.grid(axis="x", color=STAND_INS["var(--line)"], linewidth=1)
        axis.spines["left"].set_visible(False)
        return svg_of(figure, height, description)


def svg_of(figure: Figure, height: float, description: str) -> Markup:
    """The figure as the page holds it.

    Left out: the head, which is for files of their own; names of parts, the same in every chart; fonts; line breaks.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    drawn = file.getvalue()
    body = re.sub(r' id="[^"]*"| font-family: [^;]*;|\n\s*', "", drawn[drawn.index("<g ") :])
    for colour, stand_in in STAND_INS.items():
        body = body.replace(stand_in, colour)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">{body}')


def plot(axis: Axes, curves: Sequence[Curve], y_label: str, log: bool, top: float = 100) -> None:
    """Lines with bands about them, which end with the axis; open windows shaded, a strip for each, the first below.

    `log`: an axis of whole decades, on which only what is positive can be drawn; else one from 0 to `top`. Its decades
    are those of the means and of the upper ends: a band that comes near zero would add any number below.
    """
    count = len(curves[0].mean)
    low, mean, high = (
        np.array([drawable(values, log) for values in values_by_curve])
        for values_by_curve in zip(*((curve.low, curve.mean, curve.high) for curve in curves), strict=True)
    )
    if not log:
        low, high = np.clip(low, 0, top), np.clip(high, 0, top)
    elif np.isfinite(mean).any():
        low = np.fmax(low, np.nanmin(mean))
    colours = [STAND_INS.get(curve.colour, curve.colour) for curve in curves]
    shade_windows(axis, [curve.open for curve in curves], colours)
    for place, colour in enumerate(colours):
        for part in stretches(mean[place]):
            x = np.arange(1, count + 1)[part]
            if len(x) == 1:  # a point alone is seen, too: as a dash
                axis.plot([x[0] - 0.1, x[0] + 0.1], 2 * [mean[place, part][0]], color=colour, linewidth=4)
                continue
            if (low[place, part] < high[place, part]).any():
                axis.fill([*x, *x[::-1]], [*low[place, part], *high[place, part][::-1]], color=colour, alpha=0.18, lw=0)
            axis.plot(x, mean[place, part], color=colour, linewidth=2)
    axis.set(xlim=(0.5, count + 0.5), ylim=(0, top), xlabel="epoch", ylabel=y_label)
    axis.yaxis.set_label_coords(12 / WIDTH, AREA[1] + AREA[3] / 2, transform=axis.figure.transFigure)  # at the edge
    axis.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
    if log:
        bottom = math.floor(np.log10(np.nanmin(low))) if np.isfinite(low).any() else 0
        top = math.ceil(np.log10(np.nanmax(high))) if np.isfinite(high).any() else 1
        axis.set(yscale="log", ylim=(10.0**bottom, 10.0 ** max(top, bottom + 1)))
        axis.yaxis.set_major_locator(LogLocator(numticks=7))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    dress(axis)


def band(values: np.ndarray, log: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of values (seeds, ...) over the seeds, and the ends of a band of one standard deviation to both sides.

    On a logarithmic axis it is the deviation of the logarithms, so the band is as wide in decades above as below.
    """
    mean = values.mean(axis=0)
    if len(values) == 1:
        return mean, mean, mean
    if log and (values > 0).all():
        factor = np.exp(np.log(values).std(axis=0, ddof=1))
        return mean, mean / factor, mean * factor
    spread = values.std(axis=0, ddof=1)
    return mean, mean - spread, mean + spread


def drawable(values: Sequence[float | None], log: bool) -> list[float]:
    """The values, NaN for what cannot be drawn: a gap."""
    return [math.nan if value is None or (log and value <= 0) else value for value in values]


def stretches(values: np.ndarray) -> list[slice]:
    """The parts of the values between their gaps."""
    return np.ma.clump_unmasked(np.ma.masked_invalid(values))


def dress(axis: Axes) -> None:
    """Axes and words in the page's faint colours; nothing is clipped, so that no part refers to another by name."""
    faint, line = STAND_INS["var(--faint)"], STAND_INS["var(--line)"]
    axis.grid(axis="y", color=line, linewidth=1)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelcolor=faint)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(faint)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_color(faint)
    for artist in axis.findobj():
        artist.set_clip_on(False)
