"""Reading and writing what a finished run leaves: metrics, results, predictions."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from utils.errors import RunError
from utils.files import read_checked, write_checked


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


def write_predictions(folder: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write predictions.npz: (N,) class numbers of the test samples in their order, `target` and those by each rule."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(values, np.int32) for name, values in arrays.items()})
    write_checked(folder / "predictions.npz", buffer.getvalue())


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz; {} if there is none yet.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / "predictions.npz"
    if not path.exists():
        return {}
    content = read_checked(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # NumPy, zipfile and zlib each raise their own
        raise RunError(f"{path} cannot be read ({error}): run it again in another --tag") from None
