"""Reading what a finished run leaves: metrics and results.

Where a folder has no checksums.txt, what is read may be anything. `read_epochs` and `read_results` check that it is
what a run writes, so that whoever reads a number finds one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from utils.errors import DamageError, RunError
from utils.files import read_checked, remedy_for

NULL = ("fisher_trace", "gradient_norm", "hold", "regulated")  # columns of epochs, with None for what is not finite
OPTIONAL = ("hold", "regulated", "modality_gap")  # columns that not every method has


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        rows = [json.loads(line) for line in read_checked(path).splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy_for(path)}") from None
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise damage(path, "a line is not an epoch's record")
    return rows


def read_json(path: Path) -> dict:
    """Raises RunError if the file is missing or damaged."""
    try:
        content = json.loads(read_checked(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy_for(path)}") from None
    if not isinstance(content, dict):
        raise damage(path, "not a JSON object")
    return content


def read_epochs(folder: Path, *columns: str) -> list[dict]:
    """The lines of a finished run's metrics.jsonl, one or more, with these columns in each.

    The first column names the modalities, for which all have a number. `test` and `val` have an accuracy, too.

    Raises:
        RunError: if the file is missing or damaged.
    """
    path = folder / "metrics.jsonl"
    rows = read_metrics(path)
    if not rows:
        raise damage(path, "no epoch")
    modalities = rows[0].get(columns[0])
    names = list(modalities) if isinstance(modalities, dict) else []
    columns = (*columns, *(column for column in OPTIONAL if column in rows[0]))
    for number, row in enumerate(rows):
        if row["epoch"] != number:
            raise damage(path, f"line {number + 1} is not of epoch {number + 1}")
        for column in columns:
            needed = [*names, "accuracy"] if column in ("test", "val") else names
            check_numbers(path, f"{column} of epoch {number + 1}", row.get(column), needed, column in NULL)
    return rows


def read_results(folder: Path, *names: str) -> dict[str, dict[str, float]]:
    """{rule: {"epoch": ..., name: metric}} of a finished run's result.json, one rule or more, each with these names.

    Raises:
        RunError: if the file is missing or damaged.
    """
    path = folder / "result.json"
    results = read_json(path)
    if not results:
        raise damage(path, "no rule")
    for rule, metrics in results.items():
        check_numbers(path, f"rule {rule!r}", metrics, names)
    return results


def read_rule(folder: Path, rule: str, *names: str) -> dict[str, float]:
    """What `read_results` has of one rule.

    Raises:
        RunError: if it has nothing, too.
    """
    results = read_results(folder, *names)
    if rule not in results:
        why = "it was trained without --val_fraction" if rule == "val" else f"its result.json has {', '.join(results)}"
        raise RunError(f"{folder} has no rule {rule!r}: {why}")
    return results[rule]


def check_numbers(path: Path, what: str, values: object, names: Sequence[str] = (), null: bool = False) -> None:
    """Raises DamageError unless `values` maps each of `names` to a number and others to one or None.

    `null`: the former may be None, too.
    """
    if not isinstance(values, dict):
        raise damage(path, f"no {what}")
    for name in dict.fromkeys((*names, *values)):
        missing = name not in values or (values[name] is None and name in names and not null)
        if missing or not isinstance(values[name], int | float | None):
            raise damage(path, f"no number for {name!r} in {what}")


def damage(path: Path, reason: str) -> DamageError:
    """The error that says what is wrong with a file of a run, and what to do about it."""
    return DamageError(path, reason, remedy_for(path))
