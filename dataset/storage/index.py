"""The index of clips in tar shards: shards.json, and the pattern of --data_root that names the shards."""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from utils.errors import DataError
from utils.files import packed

INDEX = "shards.json"
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
    """The files that a pattern such as 'data/GRID_shards/{000..003}.tar' names. Only braces are expanded.

    Raises:
        DataError: if it is a URL or a command, its braces are not closed, or the files are in several folders.
    """
    from braceexpand import UnbalancedBracesError, braceexpand  # here, since folders do without

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
    """Where a clip lies: the number of its shard, its first byte and its bytes there, their crc32; its frames."""

    shard: int
    offset: int
    size: int
    crc32: int
    frames: int


class Index:
    """The content of shards.json. fps; sizes: {file of a shard: bytes}; places: {clip: Place}.

    Raises:
        DataError: if the file is damaged.
    """

    def __init__(self, path: Path):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            self.fps, shards = index["fps"], index["shards"]
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
