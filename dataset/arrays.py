"""Data sets that lie in memory as one array a modality, and the reader of .npz files; nothing in a file is executed."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import whitespace

import numpy as np
import torch
from torch import Tensor

from dataset.base import Batch, MultimodalDataset
from utils.errors import DataError, list_names

REMEDY = "write it again (data/README.md)"


@dataclass
class Rows:
    """A split's samples: arrays {modality: (N, ...) float32}, names and class numbers."""

    arrays: dict[str, Tensor]
    names: list[str]
    targets: list[int]


class Arrays(MultimodalDataset):
    """One split, whose sample i is row i of every array {modality: (N, ...)}; a batch is taken at once."""

    draws = False

    def __init__(self, args, arrays: Mapping[str, Tensor], names: Sequence[str], targets: Sequence[int], train: bool):
        super().__init__(args, names, targets, tuple(arrays), train)
        self.arrays = dict(arrays)

    def __getitem__(self, position: int):
        inputs = {}
        for name, array in self.arrays.items():
            corrupt = self.noise.on(name, self.names[position])
            inputs[name] = torch.from_numpy(corrupt(array[position].numpy()))
        return inputs, self.targets[position], position

    def __getitems__(self, positions: Sequence[int]):
        if self.noise.steps:  # every sample has noise of its own
            return super().__getitems__(positions)
        at = torch.tensor(positions)
        inputs = {name: array[at] for name, array in self.arrays.items()}
        return Batch(inputs, torch.tensor([self.targets[position] for position in positions]), at)


@contextmanager
def opened(path: Path, remedy: str = "prepare it again") -> Iterator[np.lib.npyio.NpzFile]:
    """A context with the open .npz, in which a file that is missing or damaged is a DataError, which says `remedy`."""
    if not path.is_file():
        raise DataError(f"{path} does not exist: prepare the data as data/README.md says, or set --data_root")
    try:
        with path.open("rb") as raw:
            if raw.read(2) != b"PK":  # np.load would take a single array, or refuse a pickle in other words
                raise ValueError("it is no .npz archive")
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}") from error


def headers(file: np.lib.npyio.NpzFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{array: (shape, type)} of an open .npz, without reading the arrays. Raises ValueError for what is no array."""
    found = {}
    for name in file.files:
        with file.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"{name} is of version {version[0]} of the format, which only structured arrays need")
            shape, _, dtype = read[version](member)
        found[name] = shape, dtype
    return found


def read(path: Path, shapes: Mapping[str, tuple[int, ...]], classes: int) -> Rows:
    """A split of the modalities `shapes`. Raises DataError for anything that does not fit the others or train.npz."""
    with opened(path, REMEDY) as file:
        targets = labels(file, path)
        if strange := sorted({number for number in targets if not number < classes}):
            raise DataError(f"{path}: label has {list_names(strange)}; the classes are 0 to {classes - 1}")
        there = headers(file)
        for name, shape in shapes.items():
            if name not in there:
                raise DataError(f"{path}: no array {name}, which train.npz has: {REMEDY}")
            found, wanted = there[name][0], (len(targets), *shape)
            if found != wanted:
                raise DataError(f"{path}: {name} is {found}, not {wanted}, as label and train.npz say: {REMEDY}")
        key = next((key for key in ("ids", "names") if key in there), None)
        count = len(targets)
        names = sample_names(file, key, path, count) if key else [f"{path.stem}{number}" for number in range(count)]
        return Rows({name: numbers(file, name, path) for name in shapes}, names, targets)


def numbers(file, name: str, path: Path) -> Tensor:
    """An array as float32. Raises DataError unless it holds finite numbers."""
    array = plain(file, name, path)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} holds {array.dtype}, not numbers: {REMEDY}")
    with np.errstate(over="ignore"):
        found = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    broken = (~found.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise DataError(
            f"{path}: {name} is not finite (as float32) in rows {list_names(broken)}; leave these samples out, or put "
            "numbers in"
        )
    return found


def labels(file, path: Path) -> list[int]:
    """The class numbers. Raises DataError unless they are whole numbers from 0, one a sample."""
    if "label" not in file.files:
        raise DataError(f"{path}: no array label, (N,) class numbers from 0: {REMEDY}")
    array = plain(file, "label", path)
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: label holds {array.dtype}, not whole numbers: save label.astype(int)")
    if array.ndim != 1 or not array.size or array.min() < 0:
        raise DataError(f"{path}: label must be (N,) class numbers from 0, N at least 1: {REMEDY}")
    return array.tolist()


def sample_names(file, key: str, path: Path, count: int) -> list[str]:
    """What the `count` samples are called. Raises DataError as `words`, and for a name that two of them have."""
    names = words(file, key, path)
    if len(names) != count or len(set(names)) < count:
        raise DataError(f"{path}: {key} must name each of the {count} samples, and none twice: {REMEDY}")
    return names


def words(file, name: str, path: Path) -> list[str]:
    """An array of text or whole numbers as text. Raises DataError for anything else, and for what no list can hold."""
    array = plain(file, name, path)
    if array.dtype.kind not in "Uiu" or array.ndim != 1:
        raise DataError(f"{path}: {name} must be (N,) texts, np.array(list_of_str), not {array.dtype} {array.shape}")
    found = [str(word) for word in array.tolist()]
    if odd := [f"[{place}] {word!a}" for place, word in enumerate(found) if not holds(word)]:
        raise DataError(
            f"{path}: {name} has texts that a list of one a line cannot hold, {list_names(odd)}: leave away blanks "
            "around them, line ends and unpaired surrogates, and let none be empty"
        )
    return found


def holds(word: str) -> bool:
    """Whether a list of one word a line, in UTF-8, gives this word back (dataset/lists.py)."""
    return 0 < len(word) == len(word.strip(whitespace)) and not re.search(r"[\n\r\ud800-\udfff]", word)


def plain(file, name: str, path: Path) -> np.ndarray:
    """An array of the open .npz. Raises DataError for one of Python objects, which stays unread."""
    if headers(file)[name][1].hasobject:
        raise DataError(
            f"{path}: {name} holds Python objects, which are not read, since that would run code: save a plain array, "
            "of numbers or np.array(list_of_str)"
        )
    return file[name]


def moments(array: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (D,) of each value over samples and steps; 1 where it hardly varies."""
    deviation, mean = torch.std_mean(array.flatten(0, -2), dim=0, correction=0)
    return mean, deviation.where(deviation > 1e-6 * mean.abs(), 1.0)


def standardise(arrays: Sequence[Tensor], mean: Tensor, deviation: Tensor) -> None:
    """Subtract the mean and divide by the deviation, in place."""
    for array in arrays:
        array.sub_(mean).div_(deviation)
