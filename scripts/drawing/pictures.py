"""The runs that a figure is given, and a picture with its numbers, written."""

import html
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from scripts.results.render import render
from utils.files import write_atomically
from utils.runs.plots import save_figure


class Runs(NamedTuple):
    """A row of an experiment: the arguments of its first run, and its runs' folders in the order of the seeds."""

    label: str
    args: Namespace
    folders: Sequence[Path]


class Picture(NamedTuple):
    """A figure, a note for its caption, and the numbers behind it as a table."""

    figure: Figure
    note: str
    header: Sequence[str]
    numbers: Sequence[Sequence]


def save(picture: Picture, stem: Path, title: str) -> Path:
    """Write <stem>.svg, .pdf, .png and, with the numbers behind them, .csv; returns the first.

    The title is a property of each file and not in the picture, whose caption says it. Nothing is in them that would
    differ the next time.

    Raises:
        RunError: if they cannot be written.
    """
    path = save_figure(picture.figure, stem, title)
    write_atomically(path.with_suffix(".csv"), render(picture.header, picture.numbers, "csv"))
    return path


def caption_of(path: Path) -> str:
    """The title of an .svg that `save` has written; "" where another program wrote it."""
    title = re.search(r"<dc:title>(.*?)</dc:title>", path.read_text(), re.S)
    return html.unescape(title[1]) if title else ""
