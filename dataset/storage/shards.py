"""Clips in tar shards, for data that fit no disk of one's own: --data_root 'data/GRID_shards/{000..003}.tar'.

data/pack_shards.py makes them, in the format of WebDataset:

<root>/000.tar ...                of each clip <clip>.00001.jpg ... and <clip>.wav, one after the other
<root>/shards.json                where each clip lies in them (dataset/storage/index.py)
<root>/train.csv, test.csv ...    as in the folder that was packed

Sample i is that of line i of the split file, drawn and decoded as from a folder, bit for bit. Only the order of a
training epoch differs (dataset/storage/stream.py). Evaluation and other passes read each clip where it lies. Nothing
is ever extracted to disk.
"""

import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from dataset.recipes.corrupt import Noise
from dataset.storage.index import AGAIN, INDEX, Index, folder_of, read_index, shards_of
from dataset.storage.source import Encoded, Recipe
from dataset.storage.stream import Plan
from utils.errors import DataError, list_names

BUFFER = 1000  # samples, WebDataset's own default


class Shards(Encoded):
    """The clips `names` of one split in the shards that --data_root names.

    Raises:
        DataError: if shards are missing or of another size than the index says, or lack clips or frames.
    """

    def __init__(self, args, names: Sequence[str], modalities: Sequence[str], recipe: Recipe, noise: Noise):
        super().__init__(names, recipe, noise)
        self.pattern, self.buffer = args.data_root, args.shuffle_buffer or BUFFER
        folder = folder_of(args.data_root)
        info = (folder / INDEX).stat()
        index = read_index(folder / INDEX, (info.st_size, info.st_mtime_ns))
        self.paths = [folder / file for file in index.sizes]
        self.shard_count = len(self.paths)
        self.check(index, shards_of(args.data_root))
        self.places = [index.places[name] for name in names]
        if "visual" in modalities:
            self.check_frames(index.fps, args)
        self.current: tuple[int, list[bytes]] | None = None  # number and files of the clip in use
        self.file: tuple[int, BinaryIO] | None = None  # the open shard

    def check(self, index: Index, named: Sequence[Path]) -> None:
        """Raises DataError unless the shards that are named hold every clip and have the sizes of the index."""
        given = {path.name for path in named}
        span = f"{self.paths[0].name} to {self.paths[-1].name}"
        if strange := sorted(given - index.sizes.keys()):
            raise DataError(f"--data_root {self.pattern}: {INDEX} has {span}; not in it, {list_names(strange)}")
        lacking = [
            clip for clip in self.names
            if clip not in index.places or self.paths[index.places[clip].shard].name not in given
        ]  # fmt: skip
        if lacking:
            raise DataError(
                f"--data_root {self.pattern}: clips of the split that are in none of these shards, "
                f"{list_names(lacking)}; {INDEX} has {span}: name them all, or pack the data again"
            )
        faults = []
        for path in (self.paths[number] for number in sorted({index.places[clip].shard for clip in self.names})):
            if not path.is_file():
                faults.append(f"{path} is missing")
            elif (size := path.stat().st_size) != (wanted := index.sizes[path.name]):
                faults.append(f"{path} has {size} bytes in place of {wanted}")
        if faults:
            raise DataError(f"shards at fault, {list_names(faults)}: {AGAIN}")

    def check_frames(self, fps: int, args) -> None:
        """Raises DataError unless the frames have the rate --fps and every clip has --frames of them."""
        if fps != args.fps:
            raise DataError(f"{self.pattern} has {fps} frames per second: set --fps {fps}, or pack others")
        short = [
            f"{name} ({place.frames})"
            for name, place in zip(self.names, self.places, strict=True)
            if place.frames < args.frames
        ]
        if short:
            raise DataError(
                f"fewer than --frames {args.frames} in {self.pattern}: {list_names(short)}; set a smaller --frames, or "
                "prepare the data again (data/README.md) and pack them"
            )

    def wave_file(self, clip: int) -> BinaryIO:
        return io.BytesIO(self.files(clip)[-1])

    def picture_files(self, clip: int, frames: Sequence[int]) -> list[BinaryIO]:
        files = self.files(clip)
        return [io.BytesIO(files[frame]) for frame in frames]

    def frame_count(self, clip: int) -> int:
        return self.places[clip].frames

    def plan(self, at: Sequence[int], generator: torch.Generator) -> Plan:
        return Plan(self, at, generator)

    def files(self, clip: int) -> list[bytes]:
        """The files of a clip: its pictures in order, then the sound."""
        if self.current is None or self.current[0] != clip:
            self.use(clip, self.read(clip))
        return self.current[1]

    def use(self, clip: int, raw: bytes) -> None:
        """Make a clip, whose bytes in the shard are `raw`, the one in use."""
        files = unpack(raw)
        if len(files) != self.places[clip].frames + 1:
            raise self.fault(clip, f"but {len(files)} files")
        self.current = clip, files

    def read(self, clip: int) -> bytes:
        """The bytes of a clip in its shard.

        Raises:
            DataError: if they are gone, or not those that the index describes.
        """
        place = self.places[clip]
        try:
            # The offset goes with the call: a loader's workers share what was open before they were started.
            raw = os.pread(self.opened(place.shard).fileno(), place.size, place.offset)
        except OSError as error:
            raise DataError(f"cannot read {self.paths[place.shard]} ({error.strerror}): {AGAIN}") from error
        if len(raw) < place.size:
            raise self.fault(clip, f"but ends after {len(raw)} of its {place.size} bytes")
        if zlib.crc32(raw) != place.crc32:
            raise self.fault(clip, "but other bytes")
        return raw

    def opened(self, number: int) -> BinaryIO:
        """The shard of this number, kept open until another is asked for."""
        if self.file is None or self.file[0] != number:
            if self.file:
                self.file[1].close()
            self.file = number, self.paths[number].open("rb", buffering=0)
        return self.file[1]

    def fault(self, clip: int, what: str) -> DataError:
        """The error that names a clip whose bytes are wrong."""
        where = self.paths[self.places[clip].shard]
        return DataError(f"{where} does not hold clip {self.names[clip]} as {INDEX} says, {what}: {AGAIN}")


def unpack(raw: bytes) -> list[bytes]:
    """The files in a part of a tar, in order; tarfile and webdataset take as long as the decoding of small pictures.

    Only for bytes whose checksum is that of data/pack_shards.py: a header of 512 bytes has the size in octal from byte
    124 on and the type at 156, where 0 is a file (x the long name of one); all is padded to multiples of 512.
    """
    files, at = [], 0
    while at < len(raw):
        size = int(raw[at + 124 : at + 135], 8)
        if raw[at + 156 : at + 157] == b"0":
            files.append(raw[at + 512 : at + 512 + size])
        at += 512 + -(-size // 512) * 512
    return files
