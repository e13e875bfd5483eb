"""Train and test lists: seeded splits by class or by group, and the text that is written."""

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataset.lists import read_fields
from dataset.prepare.clips import Clip
from utils.errors import DataError

PARTS = ("train", "test")
FILES = (*PARTS, "val")  # the third where a data set has such a list
Parts = tuple[list[Clip], ...]


def read_list(path: Path, remedy: str = "give the path of a text file in UTF-8") -> list[tuple[int, list[str]]]:
    """(number of the line, its fields) of a published list. Raises DataError, with the remedy, if it has none."""
    if not path.is_file():
        raise DataError(f"cannot read the list {path}, which is not a file: {remedy}")
    if not (rows := read_fields(path)):
        raise DataError(f"the list {path} is empty: {remedy}")
    return rows


def split(clips: Sequence[Clip], test_fraction: float, seed: int, by_group: bool = False) -> Parts:
    """Seeded train and test, stratified by label; or by group: no group in both, and the fraction is that of groups."""
    from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit  # here: workers start faster without

    splitter = GroupShuffleSplit if by_group else StratifiedShuffleSplit
    apart = {"groups": [clip.group for clip in clips]} if by_group else {"y": [clip.label for clip in clips]}
    train, test = next(splitter(1, test_size=test_fraction, random_state=seed).split(clips, **apart))
    return [clips[i] for i in sorted(train)], [clips[i] for i in sorted(test)]


def check_split(clips: Sequence[Clip], test_fraction: float, by_group: bool = False) -> None:
    """Raise DataError where `split` cannot give every class (by group: at least one group) to both parts."""
    counts = Counter(clip.group if by_group else clip.label for clip in clips)
    if single := sorted(name for name, count in counts.items() if count < 2 and not by_group):
        raise DataError(
            f"a seeded split needs two clips of every class, one to train on and one to test; there is one of "
            f"{', '.join(single)}: add clips, remove the class, or name train and test yourself (data/README.md)"
        )
    total, least = (len(counts), 1) if by_group else (len(clips), len(counts))

    def works(fraction: float) -> bool:
        return least <= math.ceil(fraction * total) <= total - least  # as scikit-learn rounds

    if not works(test_fraction):
        fractions = [number / 1000 for number in range(1, 1000) if works(number / 1000)]
        what = f"{total} groups" if by_group else f"{total} clips of {least} classes"
        raise DataError(
            f"--test_fraction {test_fraction} of {what} leaves no place for some of them in train or in test: "
            f"choose one from {fractions[0]} to {fractions[-1]}"
        )


def check_unseen(train: Iterable[Clip], test: Iterable[Clip], where: str) -> None:
    """Raise DataError, which says `where`, for clips that are in both parts."""
    if both := sorted({clip.name for clip in train} & {clip.name for clip in test}):
        raise DataError(f"{len(both)} clips are in both {where}, {both[0]} among them: the test must be unseen")


def split_text(clips: Iterable[Clip]) -> tuple[str, str]:
    """The rows of a split file, quoted where a name has a comma, and their sha256."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((clip.name, clip.label) for clip in clips)
    text = buffer.getvalue()
    return text, hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
