"""Reading what a finished run leaves: metrics and results."""

import json
from pathlib import Path

from utils.errors import RunError
from utils.files import read_checked


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        rows = [json.loads(line) for line in read_checked(path).splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): start in another --tag") from None
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise RunError(f"{path} is damaged (a line is not an epoch's record): start in another --tag")
    return rows


def read_json(path: Path) -> dict:
    """Raises RunError if the file is missing or damaged."""
    try:
        content = json.loads(read_checked(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): choose another --tag") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged (not a JSON object): choose another --tag")
    return content
