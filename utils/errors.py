"""Errors that a user can mend: `main.py` prints their one sentence instead of a traceback."""

import sys
from typing import NoReturn


class RunError(Exception):
    """The run cannot start or go on. The message says what, where, and what to do."""

    status = 1  # with which the program ends
    label = "error: "  # what it then says first


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
    """Another process, `who`, has the run's folder."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again later

    def __init__(self, folder, who: str):
        self.who = who
        super().__init__(f"{folder} is in use by {who}: wait for it, or choose --tag or --out")


def stop(error: RunError) -> NoReturn:
    """End the program with the error's one sentence and status."""
    end = SystemExit(f"{error.label}{sentence(error)}")
    end.code = error.status
    print(end, file=sys.stderr)  # which Python does by itself only for status 1
    raise end


def sentence(error: RunError) -> str:
    """The message alone, also when a loader's worker process has wrapped it into a traceback."""
    return str(error).rstrip().split("Error: ")[-1] if "Original Traceback" in str(error) else str(error)


def warn(text: str) -> None:
    """Say what the user should know although the program goes on."""
    print(f"warning: {text}", file=sys.stderr)
