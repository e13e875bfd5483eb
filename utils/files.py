"""Files that are whole or not there, and the sha256 by which damage is seen.

`checksums.txt` of a run's folder has a line for every version of its files, in the form of `sha256sum`. The line is
written before the version takes its place, so whenever a process is killed, what lies in the folder has its line.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from utils.errors import DamageError, RunError

CHECKSUMS = "checksums.txt"
WRITTEN_AS = {"previous.pt": "last.pt"}  # the name that a file had when it was written
FROM_LAST = "delete `done`, if there is one, and --resume writes it again from last.pt"
REMEDIES = {
    "args.json": "delete it, and --resume goes on by the arguments in last.pt",
    "metrics.jsonl": FROM_LAST,
    "result.json": FROM_LAST,
    "predictions.npz": FROM_LAST,
    "best.pt": "there is no copy of it; train again in another --tag",
    "probe.json": "delete it, and scripts/linear_probe.py makes it again",
}


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises RunError if that is refused."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {path} ({error.strerror}): choose --out") from None


def aside(path: Path) -> Path:
    """The file that this process writes before it takes the name `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left half written."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def discard(part: Path) -> None:
    """Remove a file that could not be written; if even that is refused, `remove_parts` does it later."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write aside, onto the disk, and rename: a reader or a power cut finds the old file or the new one.

    Raises:
        RunError: if it cannot be written.
    """
    temporary = aside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            flush(file)
        os.replace(temporary, path)
    except OSError as error:
        discard(temporary)
        raise RunError(f"cannot write {path} ({error.strerror})") from error


def write_checked(path: Path, content: str | bytes) -> None:
    """`write_atomically`, with a line in the folder's checksums.txt."""
    content = content.encode() if isinstance(content, str) else content
    add_checksum(path, hashlib.sha256(content).hexdigest())
    write_atomically(path, content)


def check_is_file(path: Path, remedy: str) -> None:
    """Raises DamageError for a folder, or for a named pipe, which a reader would wait for; a missing file passes."""
    if path.exists() and not path.is_file():
        raise DamageError(path, "not a file", remedy)


def read_checked(path: Path) -> bytes:
    """A file's content.

    Raises:
        DamageError: if the folder's checksums.txt has lines for the file and none of them is of this content.
    """
    check_is_file(path, REMEDIES.get(path.name, "remove it"))
    content = path.read_bytes()
    check(path, hashlib.sha256(content).hexdigest())
    return content


def flush(file: BinaryIO) -> None:
    """Bring what was written to `file` onto the disk, so that no rename gets there first."""
    file.flush()
    os.fsync(file.fileno())


def digest(file: BinaryIO) -> str:
    """sha256 of the rest of an open file."""
    sha256 = hashlib.sha256()
    while block := file.read(2**20):
        sha256.update(block)
    return sha256.hexdigest()


def add_checksum(path: Path, sha256: str) -> None:
    """Add a line to the folder's checksums.txt: `sha256` is that of a version of `path`.

    Raises:
        DamageError: if checksums.txt is damaged; RunError: if it cannot be written.
    """
    sums = path.with_name(CHECKSUMS)
    before, line = read_sums(sums) or [], f"{sha256}  {path.name}"
    if line not in before:
        write_atomically(sums, "".join(f"{each}\n" for each in [*before, line]))


def read_sums(sums: Path) -> list[str] | None:
    """The lines of a checksums.txt; None if it is missing.

    Raises:
        DamageError: if it is damaged.
    """
    check_is_file(sums, "remove it to go on without this check")
    try:
        lines = sums.read_bytes().decode().splitlines()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        lines = []
    if not lines or not all(re.fullmatch(r"[0-9a-f]{64}  \S+", line) for line in lines):
        raise DamageError(sums, "not lines of sha256sum", "delete it to go on without this check")
    return lines


def check(path: Path, sha256: str) -> bool:
    """Whether the folder's checksums.txt has a line for `path`, whose content has this `sha256`.

    False without a checksums.txt, or without a line for this file. Read the file before: the run may go on meanwhile.

    Raises:
        DamageError: if its lines are of other versions of the file, or it is damaged itself.
    """
    lines = read_sums(path.with_name(CHECKSUMS))
    if lines is None:
        return False
    name = WRITTEN_AS.get(path.name, path.name)
    known = [line[:64] for line in lines if line[66:] == name]
    if known and sha256 not in known:
        raise DamageError(path, f"its sha256 is not in {CHECKSUMS}", remedy_for(path))
    return bool(known)


def remedy_for(path: Path) -> str:
    """What to do about a damaged file of a run's folder."""
    if REMEDIES.get(path.name) == FROM_LAST and not path.with_name("last.pt").exists():
        return "there is no last.pt to write it again from; remove the folder and run it again, or in another --tag"
    if path.name in REMEDIES or path.suffix != ".pt":
        return REMEDIES.get(path.name, "delete it and make it again")
    if (path.parent / "done").exists():
        return "the run is done, and there is no copy of it; remove the folder and train it again"
    return "delete it to start the run anew"


def packed(data_root: str) -> bool:
    """Whether --data_root names shards, and not a folder."""
    return str(data_root).endswith(".tar")
