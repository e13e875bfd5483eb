"""The strict reader of split files, and a share withheld from a split."""

from collections.abc import Sequence
from pathlib import Path

from dataset.lists import read_fields, repeated
from utils.errors import DataError, list_names


def read_split(path: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Read rows `clip,label` into [(clip, class number)]; anything else in the file is an error.

    Raises:
        DataError: missing or empty file, a row without exactly two fields, an unknown label, a clip named twice, or a
            clip name that would lead out of the data folder.
    """
    if not path.is_file():
        raise DataError(f"split file {path} does not exist: prepare the data (data/README.md) or set --data_root")
    rows = read_fields(path)
    if not rows:
        raise DataError(f"split file {path} is empty: prepare the data again (data/README.md)")
    malformed = [f"line {number}" for number, row in rows if len(row) != 2 or not row[0]]
    if malformed:
        raise DataError(f"{path}: rows must be `clip,label`; not so in {list_names(malformed)}")
    number_of = {label: number for number, label in enumerate(classes)}
    unknown = sorted({row[1] for _, row in rows} - set(number_of))
    if unknown:
        raise DataError(f"{path}: unknown labels, {list_names(unknown)}; the classes are {', '.join(classes)}")
    clips = [row[0] for _, row in rows]
    outside = [clip for clip in clips if "/" in clip or "\\" in clip or "\0" in clip or clip in (".", "..")]
    if outside:
        raise DataError(f"{path}: clip names must be plain names without a path, {list_names(outside)}")
    if twice := repeated(clips):
        raise DataError(f"{path}: clips named more than once, {list_names(twice)}")
    return [(clip, number_of[row[1]]) for clip, (_, row) in zip(clips, rows, strict=True)]


def check_disjoint(
    train: Sequence[tuple[str, int]],
    test: Sequence[tuple[str, int]],
    where: Path,
    names: tuple[str, str] = ("train", "test"),
) -> None:
    """Raises DataError when a clip stands in both splits, which are called `names`."""
    in_training = {clip for clip, _ in train}
    both = [clip for clip, _ in test if clip in in_training]
    if both:
        raise DataError(
            f"{where}: clips in both {' and '.join(names)}, {list_names(both)}; remove them from one of the files"
        )


def split_off(targets: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Stratified (kept, withheld) positions; the withheld share is `fraction` of every class, as near as counts allow.

    Raises:
        DataError: if a class is too small to stand in both parts.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    try:
        kept, withheld = next(splitter.split(list(targets), list(targets)))
    except ValueError as error:
        raise DataError(
            f"cannot withhold a stratified {fraction:g} of {len(targets)} training samples: {error}"
        ) from None
    return sorted(kept.tolist()), sorted(withheld.tolist())
