"""The settings of a sweep: every combination of some flags' values, or so many drawn at random."""

import argparse
import itertools
import math
import random
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.parser import make_parser
from scripts.experiments.cells import Experiment, Row, parsed
from scripts.experiments.rows import BOTH, JOINT
from utils.errors import RunError
from utils.runs.setting import MACHINE_FLAGS, PATH_FLAGS, options_of

RANGE = re.compile(r"(log:)?([^:,]+):([^:,]+)")
REFERENCE = Row(JOINT.label, JOINT.flags)  # without the paper's values, which are of its own recipe
DIGITS = 3  # of a number that is drawn, so that folders have short names


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a logarithmic scale where `log`; only whole ones where `whole`."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, draws: random.Random) -> str:
        """One of them, as a word of a command line."""
        if self.log:
            value = math.exp(draws.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = draws.uniform(self.low, self.high)
        if self.whole:
            return str(round(value))
        word = f"{value:.{DIGITS}g}"
        return word if self.low <= float(word) <= self.high else repr(value)


Values = Sequence[str] | Range
Space = Mapping[str, Values]  # by flag, without its dashes


def read_space(words: Sequence[str], dataset: str, method: str) -> dict[str, Values]:
    """The flags and values of FLAG=VALUE,VALUE,..., FLAG=LOW:HIGH and FLAG=log:LOW:HIGH.

    Raises:
        RunError: for a flag that this data set and method have not, or that names no setting, and for a value that
            the flag does not take.
    """
    options = options_of(make_parser(dataset, method))
    space: dict[str, Values] = {}
    for word in words:
        flag, _, spec = word.partition("=")
        flag = flag.removeprefix("--")
        where = f"--grid {word}"
        if not spec or flag in space:
            raise RunError(f"{where}: give each flag once, as in beta=0.1,0.5 or lr=log:1e-3:1e-1")
        if flag in (*MACHINE_FLAGS, *PATH_FLAGS):
            raise RunError(f"{where}: --{flag} is no part of a setting")
        if f"--{flag}" not in options:
            parsed(["--dataset", dataset, "--method", method, f"--{flag}={spec}"])  # says whose flag it is, or why not
            raise RunError(f"{where}: there is no flag --{flag}")
        space[flag] = read_values(spec, options[f"--{flag}"], where)
    return space


def read_values(spec: str, action: argparse.Action, where: str) -> Values:
    """A list of values or a range.

    Raises:
        RunError: if the flag does not take one of them.
    """
    if action.nargs == 0:
        raise RunError(f"{where}: the flag takes no value; give it after the others, for all runs")
    values = [value for value in dict.fromkeys(spec.split(",")) if value]
    parsed = RANGE.fullmatch(spec)
    ends = [as_number(end) for end in parsed.groups()[1:]] if parsed else [None]
    if None in ends:
        for value in values:
            check(value, action, where)
        return values
    low, high = ends
    log = bool(parsed[1])
    if not low < high or (log and low <= 0):
        raise RunError(f"{where}: a range goes from the smaller to the larger number" + ", both above 0" * log)
    whole = not takes(repr(low + 0.37 * (high - low)), action) and takes(str(round(high)), action)
    for end in (low, high):
        check(str(round(end)) if whole else repr(end), action, where)
    return Range(low, high, log, whole)


def as_number(word: str) -> float | None:
    """The number that a word says; None if it says none, or none that is finite."""
    try:
        return value if math.isfinite(value := float(word)) else None
    except ValueError:
        return None


def check(value: str, action: argparse.Action, where: str) -> None:
    """Raises RunError, with the sentence of the flag's type, if the flag does not take the value."""
    try:
        read = action.type(value) if action.type else value
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise RunError(f"{where}: {error}") from None
    if action.choices is not None and read not in action.choices:
        raise RunError(f"{where}: {value!r} is none of {', '.join(map(str, action.choices))}")


def takes(value: str, action: argparse.Action) -> bool:
    """Whether the flag takes the value."""
    try:
        check(value, action, "")
    except RunError:
        return False
    return True


def every_combination(space: Space) -> list[dict[str, str]]:
    """The settings of a grid, the last flag's values changing first.

    Raises:
        RunError: if a flag has a range.
    """
    if ranges := [flag for flag, values in space.items() if isinstance(values, Range)]:
        raise RunError(f"--{ranges[0]} has a range: say how many settings to draw by --random")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def draw(space: Space, count: int, seed: int) -> list[dict[str, str]]:
    """So many settings, drawn independently; a larger count begins with the same ones.

    Numbers of a range are uniform in it, or their logarithms are; values of a list are equally likely. A setting that
    has been drawn before is left out, so lists alone may give fewer.
    """
    draws = random.Random(seed)
    settings: dict[tuple[str, ...], dict[str, str]] = {}
    for _ in range(count):
        setting = {
            flag: values.draw(draws) if isinstance(values, Range) else draws.choice(values)
            for flag, values in space.items()
        }
        settings.setdefault(tuple(setting.values()), setting)
    return list(settings.values())


def sweep_of(
    dataset: str, method: str, settings: Sequence[Mapping[str, str]], title: str, joint: bool = False
) -> Experiment:
    """The settings as the rows of an experiment, which is named after the method and the flags.

    `joint`: joint training before them, as what they are compared with.
    """
    flags = tuple(settings[0])
    rows = [
        Row(
            ", ".join(f"{flag} {value}" for flag, value in setting.items()),
            " ".join([f"--method {method}", *(f"--{flag}={shlex.quote(value)}" for flag, value in setting.items())]),
        )
        for setting in settings
    ]
    every = (REFERENCE, *rows) if joint else tuple(rows)
    name = "_".join(("sweep", method, *flags))
    return Experiment(name, title, (dataset,), BOTH, lambda _: every, base=f"--method {method}", swept=flags)
