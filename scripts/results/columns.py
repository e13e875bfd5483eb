"""What a table can show of a finished run. A column is defined here once, for every table and for the tidy CSV."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from methods import method_of
from scripts.experiments.ensembles import ENSEMBLE
from utils.runs.files import check_numbers, read_epochs, read_json, read_rule
from utils.runs.predictions import read_predictions
from utils.runs.regulation import regulated

WANTED = ("dominant", "lead")  # columns that a folder's table shows only if they are asked for
FIRST = ("accuracy", "macro_f1")
LAST = ("balanced_accuracy", "mAP", "ece", "majority")
Columns = dict[str, float | str]  # numbers, shares in %, or words


def read_columns(folder: Path, rule: str) -> Columns:
    """Every column of a finished run by a rule of selection, in the order of the tables.

    Raises:
        RunError: if the run has no such rule.
    """
    rows = epochs_of(folder)
    if not classifies(folder):
        return (gap(rows) if rule == "last" else {}) | probes(folder) | windows(rows) | holds(rows)
    found = metrics(folder, rule, names_in(rows))
    return found | probes(folder) | windows(rows) | holds(rows) | dominance(found, names_in(rows))


def metrics(folder: Path, rule: str, modalities: Sequence[str]) -> Columns:
    """`accuracy` and `macro_f1`, each modality's accuracy, and LAST (engine/evaluate.py says what they are)."""
    result = read_rule(folder, rule, *FIRST, *modalities)
    numbers = {name: value for name, value in result.items() if name not in ("epoch", "loss")}
    found = {name: 100 * value for name, value in numbers.items() if value is not None}  # None: not finite
    first = {name: found.pop(name) for name in FIRST}
    last = {name: found.pop(name) for name in LAST if name in found}
    return first | found | last


def classifies(folder: Path) -> bool:
    """Whether the method of a run trains a classifier; where it does not, what the run predicts means nothing."""
    method = method_of(folder.parts[-3])
    return method is None or method.classifies


def gap(rows: list[dict]) -> Columns:
    """`modality gap`, in the mean of the modalities after the last epoch: in words, since it is no share."""
    gaps = rows[-1].get("modality_gap") if rows else None
    return {"modality gap": f"{statistics.fmean(gaps.values()):.3f}"} if gaps else {}


def probes(folder: Path) -> Columns:
    """`probe <modality>`, the accuracy of a linear probe of its encoder, where scripts/linear_probe.py has run."""
    path = folder / "probe.json"
    if not path.exists():
        return {}
    found = read_json(path)
    check_numbers(path, "accuracies", found, list(found))
    return {f"probe {name}": 100 * value for name, value in found.items()}


def windows(rows: list[dict]) -> Columns:
    """`window <modality>`, the epochs, from 1, in which its prime learning window was open, or "never"."""
    opened = {name: [str(r["epoch"] + 1) for r in rows if r["prime_window"][name]] for name in names_in(rows)}
    return {f"window {name}": " ".join(epochs) or "never" for name, epochs in opened.items()}


def holds(rows: list[dict]) -> Columns:
    """`hold <modality>`, how much of the way that its gradients asked for the encoder made (inforeg/movement.py)."""
    found = {name: regulated(rows, name).hold for name in (rows[0].get("hold", {}) if rows else {})}
    return {f"hold {name}": 100 * hold for name, hold in found.items() if hold is not None}


def dominance(found: Columns, names: Sequence[str]) -> Columns:
    """`dominant`, the modality whose read-out is right most often, and `lead`, its points ahead of the next."""
    if len(names) < 2:
        return {}
    second, first = sorted(names, key=lambda name: found[name])[-2:]
    return {"dominant": first, "lead": found[first] - found[second]}


def higher_is_better(column: str) -> bool:
    """Whether a run with a higher value is the better one: of two numbers of such a column the best can be marked."""
    return column not in ("majority", "ece", "lead") and not column.startswith(("window ", "hold "))


def epochs_of(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl; none for an ensemble, which has no epochs."""
    return [] if folder.parts[-3] == ENSEMBLE else read_epochs(folder, "prime_window")


def names_in(rows: list[dict]) -> list[str]:
    """The modalities of a run."""
    return list(rows[0]["prime_window"]) if rows else []


class Samples:
    """Which test samples runs are right about, for runs that tell, and whose samples are those of the first."""

    def __init__(self):
        self._target: np.ndarray | None = None

    def right(self, folder: Path, rule: str) -> np.ndarray | None:
        """(N,) bool; None for a run that has not kept its predictions by the rule, or was tested on other samples, or
        trains no classifier.
        """
        predictions = read_predictions(folder)
        if rule not in predictions or not classifies(folder):
            return None
        if self._target is None:
            self._target = predictions["target"]
        same = np.array_equal(predictions["target"], self._target)
        return predictions[rule] == self._target if same else None
