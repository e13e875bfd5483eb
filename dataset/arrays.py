"""Data sets that lie in memory as one array a modality, and the reader of .npz files; nothing in a file is executed."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.base import Batch, MultimodalDataset
from utils.errors import DataError


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
