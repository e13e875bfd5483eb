"""A place for functions that numba compiles, where neither their source's folder nor the user's can be written to.

Numba keeps compiled functions beside their source or in the user's cache folder, and refuses to compile otherwise; so
librosa, which uses numba, cannot even be imported in a container that is read-only and has no HOME.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from utils.errors import RunError, warn

SETTING = "NUMBA_CACHE_DIR"


@cache
def find_place() -> None:
    """Set NUMBA_CACHE_DIR to a temporary folder if numba would find no place; call it before numba is imported.

    Raises:
        RunError: if there is no temporary folder, either.
    """
    if SETTING in os.environ or writable(user_folder()) or all(map(writable, source_folders())):
        return
    try:
        folder = tempfile.mkdtemp(prefix="numba-")
    except OSError as error:
        raise RunError(
            f"numba, which librosa needs, has no folder to write to ({error}): set {SETTING} to one"
        ) from error
    os.environ[SETTING] = folder
    warn(f"numba finds no folder to write to and compiles anew in every run: set {SETTING} to one that lasts")
    owner = os.getpid()  # loader processes end before this one, and leave the folder alone
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))


@contextmanager
def compiling() -> Iterator[None]:
    """A context for imports of numba and for what it compiles.

    Raises:
        RunError: if there is no place for compiled functions.
    """
    find_place()
    try:
        yield
    except RuntimeError as error:  # numba's "cannot cache function"
        raise RunError(
            f"numba cannot keep what it compiles ({error}): set {SETTING} to a folder to write to"
        ) from error


def user_folder() -> Path:
    """Numba's folder in the user's cache."""
    # os.path's leaves the ~ where there is no home; pathlib's raises.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")


def source_folders() -> list[Path]:
    """The folders beside the source of this package and of librosa where compiled functions may lie."""
    librosa = Path(find_spec("librosa").origin).parent
    packages = [Path(__file__).parent, librosa, librosa / "core", librosa / "util"]
    return [package / "__pycache__" for package in packages]


def writable(folder: Path) -> bool:
    """Whether a file can be made there; tried, since permissions do not tell of read-only disks."""
    if not folder.is_absolute():  # a ~ that leads nowhere
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
