"""What the scripts that draw share: the runs that they are given, and how a picture is written."""

import csv
import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from utils.errors import RunError
from utils.files import write_atomically


class Runs(NamedTuple):
    """A row of an experiment: the arguments of its first run, and its runs' folders in the order of the seeds."""

    label: str
    args: Namespace
    folders: Sequence[Path]


class Picture(NamedTuple):
    """A figure, what is to be said of it, and the numbers behind it as a table."""

    figure: Figure
    note: str
    header: Sequence[str]
    numbers: Sequence[Sequence]


def save(picture: Picture, path: Path) -> None:
    """The picture into `path` and its numbers beside it, without anything that would differ the next time."""
    drawn, table = io.StringIO(), io.StringIO(newline="")
    # Text stays text; the names inside follow from the salt instead of from chance.
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        picture.figure.savefig(drawn, format="svg", metadata={"Date": None})
    csv.writer(table, lineterminator="\n").writerows([picture.header, *picture.numbers])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {path.parent} ({error.strerror}): choose --out") from None
    write_atomically(path, drawn.getvalue())
    write_atomically(path.with_suffix(".csv"), table.getvalue())
