"""Errors that a user can mend: `main.py` prints their one sentence instead of a traceback."""


class RunError(Exception):
    """The run cannot start or go on. The message says what, where, and what to do."""


class DataError(RunError):
    """The data on disk is not what the run needs."""


def sentence(error: RunError) -> str:
    """The message alone, also when a loader's worker process has wrapped it into a traceback."""
    return str(error).rstrip().split("Error: ")[-1] if "Original Traceback" in str(error) else str(error)
