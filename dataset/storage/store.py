"""A store of decoded clips on disk, made once and used by every later run, which maps it into memory.

    <cache_root>/sound-<key>/data.bin, index.json       spectrograms, float32
    <cache_root>/frames-<key>/data.bin, index.json      pictures, uint8 (H, W, 3)

The key is made of the recipe, the clips, and the size and time of their source files, so that a change of any of them
leads to another folder. An unfinished store lies in data.part with a journal of its clips; the next run completes it.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dataset.workers import Loader
from utils.errors import DataError, InUseError, RunError
from utils.files import write_atomically
from utils.lock import Lock

Shape = tuple[int, ...]
LIBRARIES = ("librosa", "pillow", "soundfile", "torchaudio")  # that decode
SHOWN = 1e9  # bytes from which on verification has a progress bar


class Store:
    """The arrays of a number of clips, a list for each clip, in one file that is mapped, not read.

    Raises:
        DataError: if the file is not what its index says; names the clip and the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            index = json.loads((folder / "index.json").read_text())
            self.dtype = np.dtype(index["dtype"])
            self.names: list[str] = index["names"]
            self.shapes: list[list[Shape]] = [[tuple(shape) for shape in shapes] for shapes in index["shapes"]]
            self.starts = starts_of(self.shapes, self.dtype)
            crc, libraries = index["crc32"], dict(index["libraries"])
            if not len(crc) == len(self.names) == len(self.shapes):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._damaged("index.json is not what was written") from None
        for library, made in libraries.items():
            if (here := found_version(library)) not in (None, made):
                tqdm.write(f"warning: {folder} was made with {library} {made}, here is {here}; to be sure, delete it")
        self._resident: dict[torch.device, Tensor] = {}
        path = folder / "data.bin"
        if not path.is_file() or path.stat().st_size != self.starts[-1]:
            raise self._damaged("data.bin is missing or cut short")
        mapped = np.memmap(path, np.uint8, mode="c") if self.starts[-1] else np.zeros(0, np.uint8)
        self.data = mapped.view(np.ndarray)  # whose slices are made faster
        clips = range(len(self.names))
        quiet = None if self.starts[-1] >= SHOWN else True
        for clip in tqdm(clips, desc=f"verifying {folder.name}", unit="clip", leave=False, disable=quiet):
            if zlib.crc32(self._bytes(clip)) != crc[clip]:
                raise self._damaged(f"clip {self.names[clip]} is not what was written")

    def read(self, clip: int) -> list[np.ndarray]:
        """The arrays of a clip by its number: views of the file."""
        pieces, start = [], self.starts[clip]
        for shape in self.shapes[clip]:
            end = start + math.prod(shape) * self.dtype.itemsize
            pieces.append(self.data[start:end].view(self.dtype).reshape(shape))
            start = end
        return pieces

    def on(self, device: torch.device) -> Tensor:
        """All arrays of all clips, one after the other in a tensor on `device`, smaller ones padded with zeros.

        Raises:
            RunError: if they do not fit.
        """
        if device not in self._resident:
            shapes = [shape for clip in self.shapes for shape in clip]
            size = (len(shapes), *(max(sizes) for sizes in zip(*shapes, strict=True)))
            kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
            needed = math.prod(size) * self.dtype.itemsize
            if needed > (free := free_memory(device)):
                raise RunError(
                    f"--cache device: {self.folder.name} takes {needed / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB "
                    "free: use --cache disk"
                )
            whole = torch.zeros(size, dtype=kind, device=device)
            rows = iter(whole)
            bar = tqdm(range(len(self.names)), desc=f"{self.folder.name} to {device}", leave=False, disable=None)
            for clip in bar:
                for array in self.read(clip):
                    next(rows)[tuple(slice(side) for side in array.shape)] = torch.from_numpy(array).to(device)
            self._resident[device] = whole
        return self._resident[device]

    def _bytes(self, clip: int) -> np.ndarray:
        return self.data[self.starts[clip] : self.starts[clip + 1]]

    def _damaged(self, what: str) -> DataError:
        return DataError(f"cache {self.folder}: {what}: delete that folder, it will be made again")


def found_version(library: str) -> str | None:
    """The version of a library that is installed; None if it is not."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def free_memory(device: torch.device) -> float:
    """The free memory of a GPU in bytes; the host's is taken as unlimited."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def starts_of(shapes: Sequence[Sequence[Shape]], dtype: np.dtype) -> list[int]:
    """(clips + 1,) where each clip's bytes begin, and the end."""
    sizes = [sum(map(math.prod, clip)) * dtype.itemsize for clip in shapes]
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()] if sizes else [0]


# Clip number -> its arrays.
Decode = Callable[[int], Sequence[np.ndarray]]


def store(
    root: Path,
    kind: str,
    recipe: str,
    names: Sequence[str],
    sources: Sequence[Sequence[Path]],
    shapes_of: Callable[[], list[list[Shape]]],
    decode: Decode,
    dtype: str,
    workers: int,
) -> Store:
    """The store of these clips below `root`; made, or finished, where it is not there yet.

    Several processes may ask for it at once: one decodes, the others wait for it.

    Raises:
        DataError: if a clip does not decode, the disk is too small or cannot be written to, or the store is damaged;
            Stopped if the run has been sent a signal: what is decoded stays, and is gone on with.
    """
    stamps = [[(file.name, (info := file.stat()).st_size, info.st_mtime_ns) for file in files] for files in sources]
    key = hashlib.sha256(json.dumps([recipe, list(names), stamps]).encode()).hexdigest()[:16]
    folder = root / f"{kind}-{key}"
    waited = False
    while not (folder / "index.json").exists():
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(Lock(folder, ".lock"))
            except InUseError as error:
                if not waited:
                    tqdm.write(f"{error.who} makes {folder}: waiting for it")
                waited = True
                time.sleep(0.5)
                continue
            except RunError as error:
                raise DataError(f"{error} or --cache_root") from None
            if not (folder / "index.json").exists():
                build(folder, names, shapes_of(), decode, np.dtype(dtype), workers)
    return opened(folder)


@functools.cache
def opened(folder: Path) -> Store:
    """The store in `folder`, verified once a process."""
    return Store(folder)


def build(
    folder: Path, names: Sequence[str], shapes: list[list[Shape]], decode: Decode, dtype: np.dtype, workers: int
) -> None:
    """Decode what the journal does not have yet, then give the store its final names."""
    data, journal = folder / "data.part", folder / "journal.txt"
    starts = starts_of(shapes, dtype)
    crc = read_journal(journal) if data.exists() else {}
    there = data.stat().st_blocks * 512 if data.exists() else 0
    needed, free = starts[-1] - there, shutil.disk_usage(folder).free
    tqdm.write(f"{folder.name} of {len(names)} clips will take {starts[-1] / 1e9:.2f} GB; free: {free / 1e9:.1f} GB")
    if needed > free:
        raise DataError(
            f"{folder} needs {needed / 1e9:.2f} GB more, but the disk has {free / 1e9:.2f} GB: free the difference, or "
            "set --cache_root to another disk"
        )
    try:
        with data.open("ab") as file:
            if starts[-1]:
                os.posix_fallocate(file.fileno(), 0, starts[-1])
        missing = [clip for clip in range(len(names)) if clip not in crc]
        tasks = Writing(data, missing, shapes, starts, names, decode, dtype)
        loader = Loader(tasks, batch_size=None, num_workers=workers)
        bar = tqdm(loader, desc=f"decoding into {folder.name}", unit="clip", leave=False, disable=None)
        with journal.open("a") as lines:
            for clip, crc_of_clip in bar:
                lines.write(f"{clip} {crc_of_clip}\n")
                lines.flush()
                crc[clip] = crc_of_clip
        with data.open("rb+") as file:
            os.fsync(file.fileno())
        data.rename(folder / "data.bin")
        index = {"dtype": dtype.name, "names": list(names), "shapes": shapes}
        index["libraries"] = {library: found_version(library) for library in LIBRARIES}
        index["crc32"] = [crc[clip] for clip in range(len(names))]
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}): mend that, or set --cache_root") from error
    try:
        write_atomically(folder / "index.json", json.dumps(index))
    except RunError as error:
        raise DataError(f"{error}: mend that, or set --cache_root") from error
    journal.unlink(missing_ok=True)


def read_journal(path: Path) -> dict[int, int]:
    """{clip: crc32 of its bytes}; the last line of a process that was killed may be cut short.

    {} where the journal is missing or damaged: then every clip is decoded again.
    """
    if not path.exists():
        return {}
    try:
        *lines, _ = path.read_text().split("\n")
        sums = {int(clip): int(crc) for clip, crc in map(str.split, lines)}
    except ValueError:
        sums = {}
    path.write_text("".join(f"{clip} {crc}\n" for clip, crc in sums.items()))
    return sums


class Writing(Dataset):
    """Item i decodes the i-th of `clips` and writes it to its place in the file: (clip, crc32 of its bytes)."""

    def __init__(self, path, clips, shapes, starts, names, decode: Decode, dtype: np.dtype):
        self.path, self.clips, self.shapes, self.starts = path, clips, shapes, starts
        self.names, self.decode, self.dtype = names, decode, dtype

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> tuple[int, int]:
        clip = self.clips[i]
        arrays = self.decode(clip)
        if [array.shape for array in arrays] != self.shapes[clip]:
            raise DataError(f"clip {self.names[clip]} does not have the size that its header says: prepare it again")
        content = b"".join(np.ascontiguousarray(array, self.dtype).tobytes() for array in arrays)
        with self.path.open("rb+") as file:
            file.seek(self.starts[clip])
            file.write(content)
        return clip, zlib.crc32(content)
