"""The runs that a figure is given, and a picture with its numbers, written."""

import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from scripts.results.render import render
from utils.files import make_folder, write_atomically


class Runs(NamedTuple):
    """A row of an experiment: the arguments of its first run, and its runs' folders in the order of the seeds."""

    label: str
    args: Namespace
    folders: Sequence[Path]


class Picture(NamedTuple):
    """A figure, a note for its title, and the numbers behind it as a table."""

    figure: Figure
    note: str
    header: Sequence[str]
    numbers: Sequence[Sequence]


def save(picture: Picture, path: Path) -> None:
    """Write the picture to `path` and its numbers beside it, without anything that would differ the next time.

    Raises:
        RunError: if they cannot be written.
    """
    drawn = io.StringIO()
    # Text stays text; the names inside follow from the salt instead of from chance.
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        picture.figure.savefig(drawn, format="svg", metadata={"Date": None})
    make_folder(path.parent)
    write_atomically(path, drawn.getvalue())
    write_atomically(path.with_suffix(".csv"), render(picture.header, picture.numbers, "csv"))
