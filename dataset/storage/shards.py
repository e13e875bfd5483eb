"""Clips in tar shards, for data that fit no disk of one's own: --data_root 'data/GRID_shards/{000..003}.tar'.

data/pack_shards.py makes them, in the format of WebDataset:

<root>/000.tar ...                of each clip <clip>.00001.jpg ... and <clip>.wav, one after the other
<root>/shards.json                where in them each clip lies
<root>/train.csv, test.csv ...    as in the folder that was packed

Sample i is that of line i of the split file, drawn and decoded as from a folder, bit for bit. Only the order of a
training epoch differs: shards are taken in a drawn order and their clips pass through a window of --shuffle_buffer
samples. It is planned before the epoch from the index alone, so it depends on neither workers nor processes, and each
of them reads the bytes of its own samples only, forward through the shards, and holds what the window holds of them.
What is asked for in another order, as evaluations do, is read where it lies.
Nothing is ever extracted to disk.
"""

import io
import json
import os
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
import webdataset
from braceexpand import UnbalancedBracesError, braceexpand
from torch.utils.data import Dataset, get_worker_info

from utils.errors import DataError, list_names
from utils.files import packed

INDEX = "shards.json"
BUFFER = 1000  # samples, WebDataset's own default
AGAIN = "copy it again, or delete it and pack the data again (data/pack_shards.py)"


def folder_of(data_root: str) -> Path:
    """The folder of the split files: --data_root itself, or the one that its shards are in.

    Raises:
        DataError: if that one has no index.
    """
    if not packed(data_root):
        return Path(data_root)
    folder = shards_of(data_root)[0].parent
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} has no {INDEX}: pack the data with data/pack_shards.py, or set --data_root")
    return folder


def shards_of(pattern: str) -> list[Path]:
    """The files that a pattern such as 'data/GRID_shards/{000..003}.tar' names; nothing else is made of it.

    Raises:
        DataError: if it is a URL or a command, its braces are not closed, or the files are in several folders.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"--data_root {pattern}: shards are files, on a local or a mounted disk: copy or mount them")
    try:
        paths = [Path(name) for name in braceexpand(pattern)]
    except UnbalancedBracesError:
        raise DataError(f"--data_root {pattern}: a brace is not closed; write 'folder/{{000..003}}.tar'") from None
    if len({path.parent for path in paths}) > 1:
        raise DataError(f"--data_root {pattern}: the shards must be in one folder, with their {INDEX}")
    return paths


class Place(NamedTuple):
    """Where a clip lies: in which shard of the index, from which byte on, how many; their checksum; its frames."""

    shard: int
    offset: int
    size: int
    crc32: int
    frames: int


class Index:
    """What shards.json says: `fps`; of each shard its file's name and bytes; {clip: Place}.

    Raises:
        DataError: if the file is damaged.
    """

    def __init__(self, path: Path):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.fps, shards = found["fps"], found["shards"]
            self.sizes = {file: entry["bytes"] for file, entry in shards.items()}
            if not shards:
                raise ValueError("it names no shard")
            self.places = {
                clip: Place(number, *map(int, row))
                for number, entry in enumerate(shards.values())
                for clip, row in entry["clips"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} cannot be read ({error!r}): {AGAIN}") from None


@lru_cache(maxsize=1)
def read_index(path: Path, version: tuple[int, int]) -> Index:
    """The index, which all splits of a run share. version: size and time of the file."""
    return Index(path)


class Shards:
    """The clips `names` of one split, by position: `waves[i]` and `files[i][frame]` are files to decode.

    Raises:
        DataError: if shards are missing or of another size than the index says, or lack clips or frames.
    """

    def __init__(self, args, names: Sequence[str], modalities: Sequence[str]):
        self.names, self.pattern = names, args.data_root
        self.buffer = getattr(args, "shuffle_buffer", None) or BUFFER  # checkpoints from before the flag have none
        folder = folder_of(args.data_root)
        info = (folder / INDEX).stat()
        index = read_index(folder / INDEX, (info.st_size, info.st_mtime_ns))
        self.paths = [folder / file for file in index.sizes]
        self.check(index, shards_of(args.data_root))
        self.places = [index.places[name] for name in names]
        if "visual" in modalities:
            self.check_frames(index.fps, args)
        self.waves, self.files = Waves(self), Pictures(self)
        self.current: tuple[int, list[bytes]] | None = None  # position and files of the clip in use
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

    def clip(self, position: int) -> list[bytes]:
        """The files of a clip: its pictures in order, then the sound."""
        if self.current is None or self.current[0] != position:
            self.use(position, self.read(position))
        return self.current[1]

    def use(self, position: int, raw: bytes) -> None:
        """Make a clip, whose bytes in the shard are `raw`, the one in use."""
        files = unpack(raw)
        if len(files) != self.places[position].frames + 1:
            raise self.fault(position, f"but {len(files)} files")
        self.current = position, files

    def read(self, position: int) -> bytes:
        """The bytes of a clip in its shard.

        Raises:
            DataError: if they are gone, or others than the index says.
        """
        place = self.places[position]
        try:
            # The offset goes with the call: a loader's workers share what was open before they were started.
            raw = os.pread(self.opened(place.shard).fileno(), place.size, place.offset)
        except OSError as error:
            raise DataError(f"cannot read {self.paths[place.shard]} ({error.strerror}): {AGAIN}") from error
        if len(raw) < place.size:
            raise self.fault(position, f"but ends after {len(raw)} of its {place.size} bytes")
        if zlib.crc32(raw) != place.crc32:
            raise self.fault(position, "but other bytes")
        return raw

    def opened(self, number: int) -> BinaryIO:
        if self.file is None or self.file[0] != number:
            if self.file:
                self.file[1].close()
            self.file = number, self.paths[number].open("rb", buffering=0)
        return self.file[1]

    def fault(self, position: int, found: str) -> DataError:
        where = self.paths[self.places[position].shard]
        return DataError(f"{where} does not hold clip {self.names[position]} as {INDEX} says, {found}: {AGAIN}")

    def plan(self, at: Sequence[int], generator: torch.Generator) -> "Plan":
        return Plan(self, at, generator)


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


class Plan:
    """An epoch over the clips of `at`, places in the split that may repeat, as `generator` draws it.

    `order`: the positions in `at`, in the order of training. `reading`: the places, each once, in that of reading.
    """

    def __init__(self, shards: Shards, at: Sequence[int], generator: torch.Generator):
        self.shards, self.at = shards, at
        rank = torch.randperm(len(shards.paths), generator=generator).tolist()
        places = shards.places
        stored = sorted(range(len(at)), key=lambda i: (rank[places[at[i]].shard], places[at[i]].offset))
        self.reading = list(dict.fromkeys(at[i] for i in stored))
        draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
        through_window = webdataset.shuffle(shards.buffer, initial=shards.buffer, rng=draws)
        self.order = list(through_window(iter(stored)))

    def stream(self, data: Dataset, batches: Sequence[Sequence[int]]) -> "Stream":
        return Stream(data, self, batches)


class Stream(Dataset):
    """`data`, whose samples are asked for as `batches` say; each clip is read when the plan comes to it.

    A loader's worker reads what its own batches want, which are dealt in turn. What is asked for otherwise (a second
    time, say) is read at once, so that what is given never depends on the plan.
    """

    def __init__(self, data: Dataset, plan: Plan, batches: Sequence[Sequence[int]]):
        self.data, self.plan, self.batches = data, plan, batches
        self.uses: Counter[int] | None = None  # how often each place is yet to be asked for
        self.coming: Iterable[int] = ()  # the places that are yet to be read
        self.held: dict[int, bytes] = {}  # what has been read, until it has been asked for as often as it will be

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int):
        place = self.plan.at[position]
        self.plan.shards.use(place, self.take(place))
        return self.data[position]

    def take(self, place: int) -> bytes:
        if self.uses is None:
            self.start()
        if not self.uses[place]:
            return self.plan.shards.read(place)
        while place not in self.held:
            following = next(self.coming)
            self.held[following] = self.plan.shards.read(following)
        self.uses[place] -= 1
        return self.held[place] if self.uses[place] else self.held.pop(place)

    def start(self) -> None:
        """In the process that reads: only there it is known which batches are its own."""
        worker = get_worker_info()
        own = self.batches[worker.id :: worker.num_workers] if worker else self.batches
        uses = Counter(self.plan.at[position] for batch in own for position in batch)
        self.uses, self.coming = uses, iter([place for place in self.plan.reading if uses[place]])


class Waves:
    def __init__(self, shards: Shards):
        self.shards = shards

    def __getitem__(self, position: int) -> BinaryIO:
        return io.BytesIO(self.shards.clip(position)[-1])


class Pictures:
    def __init__(self, shards: Shards):
        self.shards = shards

    def __getitem__(self, position: int) -> "Frames":
        return Frames(self.shards, position)


class Frames:
    """The pictures of one clip; their number is known without reading."""

    def __init__(self, shards: Shards, position: int):
        self.shards, self.position = shards, position

    def __len__(self) -> int:
        return self.shards.places[self.position].frames

    def __getitem__(self, number: int) -> BinaryIO:
        return io.BytesIO(self.shards.clip(self.position)[number])
