"""Accuracy against the flags whose values have been run: figures 7 and 8, and every sweep."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from scripts.drawing.curves import ACCURACY, Curve, Panel, lines
from scripts.drawing.pictures import Picture, Runs
from scripts.experiments.rows import JOINT, LABELS
from utils.runs.files import read_rule
from utils.runs.plots import COLOURS, FUSED, nested, style

Read = Callable[[Path], float]  # an accuracy in % of the run in a folder
SPREAD = 30  # positive values whose largest is so many times the least stand on a logarithmic axis


def figure7(rows: Sequence[Runs]) -> Picture:
    """Accuracy against beta."""
    return sweep(rows, ("beta",), *by_rule("last"), {"beta": "strength of the regulation  β"})


def figure8(rows: Sequence[Runs]) -> Picture:
    """Accuracy against K."""
    label = "threshold of the prime learning window  K"
    return sweep(rows, ("threshold",), *by_rule("last"), {"threshold": label})


def by_rule(rule: str) -> tuple[Read, str]:
    """What reads the test accuracy by a rule of selection from a run's folder, and its name on an axis."""
    words = {"last": "last epoch", "val": "epoch by validation", "oracle": "best test epoch"}[rule]
    return lambda folder: 100 * read_rule(folder, rule, "accuracy")["accuracy"], f"{ACCURACY}, {words}"


def sweep(
    rows: Sequence[Runs], flags: Sequence[str], read: Read, y: str, labels: dict[str, str] | None = None
) -> Picture:
    """A panel for each flag, with the accuracy at each of its values; joint training is a level.

    Settings that share the other flags make a curve. Where that gives more curves than there are looks, or no curve
    has two points, as in a random search, each setting is a point.
    """
    level = [runs for runs in rows if runs.label == JOINT.label]
    settings = [runs for runs in rows if runs.label != JOINT.label]
    values = {runs.label: np.array([read(folder) for folder in runs.folders]) for runs in rows}
    panels = []
    for flag in flags:
        places = places_of(settings, flag)
        curves = curves_of(settings, flag, [other for other in flags if other != flag], values, places)
        for runs in level:
            at = list(places.values()) if numeric(places) else [-0.5, len(places) - 0.5]
            held = np.repeat(values[runs.label][:, None], len(at), axis=1)
            curves[runs.label] = Curve(at, held, FUSED | {"linestyle": "--", "marker": ""})
        if numeric(places):  # equal curves both stay in sight
            each = enumerate(curves.items())
            curves = {n: curve._replace(style=curve.style | nested(k, len(curves))) for k, (n, curve) in each}
        panels.append(Panel("", (labels or {}).get(flag, f"--{flag}"), y, curves))
    picture = lines(rows, panels, sharey=True)
    for axis, flag in zip(picture.figure.axes, flags, strict=True):
        number_axis(axis, places_of(settings, flag))
    return picture


def places_of(settings: Sequence[Runs], flag: str) -> dict[object, float]:
    """{value: where it stands on the axis}: a number at itself, other values side by side in their order."""
    values = list(dict.fromkeys(hashable(vars(runs.args)[flag]) for runs in settings))
    if numeric(values):
        return {value: float(value) for value in sorted(values)}
    return {value: float(place) for place, value in enumerate(values)}


def numeric(values: Iterable[object]) -> bool:
    """Whether all values are numbers, between which a line says something."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def hashable(value: object) -> object:
    """A flag's value as a key; a flag that may be given more than once has a list."""
    return tuple(value) if isinstance(value, list) else value


def curves_of(
    settings: Sequence[Runs], flag: str, others: Sequence[str], values: dict[str, np.ndarray], places: dict
) -> dict[str, Curve]:
    """The curves of one panel by name, each with its points in order of the axis.

    Words have nothing between them: the points of several settings stand side by side, without lines.
    """
    groups: dict[str, list[Runs]] = {}
    for runs in settings:
        name = ", ".join(f"{other} {shown(vars(runs.args)[other])}" for other in others)
        groups.setdefault(name or LABELS.get(runs.args.method, runs.args.method), []).append(runs)
    points = len(groups) > len(COLOURS) or max(map(len, groups.values())) == 1
    if points and others:
        groups = {"a setting": list(settings)}
    curves, words = {}, not numeric(places)
    for number, (name, members) in enumerate(groups.items()):
        members = sorted(members, key=lambda runs: places[hashable(vars(runs.args)[flag])])
        x = [places[hashable(vars(runs.args)[flag])] for runs in members]
        look = style(number) | ({"linestyle": ""} if points or words else {})
        aside = 0.5 * ((number + 0.5) / len(groups) - 0.5) if words else 0.0
        curves[name] = Curve(x, np.stack([values[runs.label] for runs in members], axis=1), look, aside)
    return curves


def number_axis(axis, places: dict[object, float]) -> None:
    """Ticks at the values, where they are few; a logarithmic axis for numbers of many sizes, equal room for words."""
    if not numeric(places):
        axis.set_xlim(-0.5, len(places) - 0.5)
    elif min(places) > 0 and max(places) >= SPREAD * min(places):
        axis.set_xscale("log")
    if len(places) <= 10:
        axis.set_xticks(list(places.values()), list(map(shown, places)), minor=False)
        axis.minorticks_off()


def shown(value: object) -> str:
    """A flag's value as a word."""
    if isinstance(value, tuple | list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
