"""How much room prepared data take, said and checked before the work."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from utils.errors import RunError

BLOCK = 4096  # bytes, what file systems allot at least


def size_on_disk(paths: Iterable[Path]) -> int:
    """Bytes that files and folders of files take, in whole blocks; links to files of the download take none."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(-(-info.st_size // BLOCK) * BLOCK for info in map(os.stat, files) if info.st_nlink == 1)


def check_space(out: Path, size: float, what: str) -> None:
    """Say `what` will take, with the `size` in bytes for its {}; raise RunError if the disk of `out` has less."""
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
    needed = what.format(in_units(size))
    tqdm.write(f"{needed}; the disk of {out} has {in_units(free)}", file=sys.stderr)
    if size > free:
        raise RunError(
            f"{needed}, but the disk of {out} has {in_units(free)}: free the difference, or choose an --out elsewhere"
        )


def in_units(size: float) -> str:
    """Bytes with their decimal unit: 12.3 MB."""
    unit = min(3, max(0, (len(str(int(size))) - 1) // 3))
    return f"{size / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB')[unit]}"
