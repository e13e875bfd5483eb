"""Errors that a user can mend: a program prints their one sentence instead of a traceback."""

import contextlib
import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

# Errors of the system, not of the code: permissions, a disk that is full, broken or read-only, too many open files or
# processes, a folder in the place of a file, names that no file can have.
REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.EAGAIN, errno.ENOMEM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
# What a RuntimeError says when memory is short, on a GPU or on the host.
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED|bad_alloc")


class RunError(Exception):
    """The run cannot start or go on. The message says what, where, and what to do."""

    status = 1  # of the program that it ends
    label = "error: "  # before its message


class DataError(RunError):
    """The data on disk is not what the run needs."""


class CombinationError(RunError):
    """The model, the method or the data set does not define what the flags ask for together."""

    status = 2  # argparse's, for flags that are wrong one by one


class DamageError(RunError):
    """A file is not what was written."""

    def __init__(self, path, reason: str, remedy: str):
        self.path, self.reason = path, reason
        super().__init__(f"{path} is damaged ({reason}): {remedy}")


class InUseError(RunError):
    """Another process has the run's folder; `who` describes it."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again later

    def __init__(self, folder, who: str):
        self.who = who
        super().__init__(f"{folder} is in use by {who}: wait for it, or choose --tag or --out")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the system refuses becomes a RunError: a file that may not be read, which it names, or more memory."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename} cannot be read or written" if error.filename else "a file cannot be read or written"
        raise RunError(f"{where} ({error.strerror}): mend that and start this again") from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        raise RunError(out_of_memory(str(error))) from error


def out_of_memory(text: str) -> str:
    """What to do about an error of PyTorch, NumPy or Python that says that memory is short."""
    asked = re.search(r"(?:ried to allocate|nable to allocate) ([\d.]+ ?\w+)", text)
    more = f" ({asked[1]} more were asked for)" if asked else ""
    if "CUDA" in text or "CUBLAS" in text or "CUDNN" in text:
        return f"the GPU is out of memory{more}: lower --batch_size, or use --precision bf16 or --cache disk"
    return f"this machine is out of memory{more}: lower --batch_size or --workers, or use --cache disk"


@contextlib.contextmanager
def one_sentence(status: int | None = None) -> Iterator[None]:
    """Around a program's `main()`: an error that a user can mend ends it with one sentence and `status`.

    Without one, the status is the error's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a class called "été" shows its escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        check_checkout()
        with refusals():
            yield
            sys.stdout.flush()
    except RunError as error:
        stop(error, status)
    except BrokenPipeError:
        if not unread():
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None


def unread() -> bool:
    """Whether nobody reads what is printed any more, as after `| head`; what waits to be printed is then let go."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if closed := any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def check_checkout() -> None:
    """Raises RunError for a script of one checkout that would run the code of another, from which it was installed."""
    here, installed = Path(sys.argv[0]).resolve().parent.parent, Path(__file__).resolve().parent.parent
    if here != installed and (here / Path(__file__).relative_to(installed)).is_file():
        raise RunError(
            f"{sys.argv[0]} would run the code of {installed}, from which this environment was installed: set "
            f"PYTHONPATH={here}, or install this checkout (pip install -e .)"
        )


def stop(error: RunError, status: int | None = None) -> NoReturn:
    """End the program with the error's one sentence and `status`, or the error's own."""
    end = SystemExit(f"{error.label}{sentence(error)}")
    end.code = error.status if status is None else status
    print(end, file=sys.stderr)  # Python does so by itself only for status 1
    raise end


def sentence(error: RunError) -> str:
    """The message alone, also when a loader's worker process has wrapped it into a traceback."""
    return str(error).rstrip().split("Error: ")[-1] if "Original Traceback" in str(error) else str(error)


def warn(text: str) -> None:
    """Say what the user should know although the program goes on."""
    print(f"warning: {text}", file=sys.stderr)


def list_names(names: Sequence[str], limit: int = 5) -> str:
    """'3: a, b, c' or '12: a, b, c, d, e, ...': the count and the first names, for error messages."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{len(names)}: {shown}{', ...' if len(names) > limit else ''}"
