"""How well a model tells each class: accuracy by head, average precision, as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from utils.metrics import average_precisions, class_accuracies
from utils.runs.predictions import Predictions


@dataclass(frozen=True)
class ByClass:
    """The metrics of each of C classes, as shares (0..1); NaN for a class without samples.

    samples (C,): how many there are; accuracy {head: (C,)}; precision (C,): average precision of the fused prediction.
    """

    names: Sequence[str]
    samples: np.ndarray
    accuracy: Mapping[str, np.ndarray]
    precision: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], target: ArrayLike, predicted: Mapping[str, ArrayLike], fused: ArrayLike):
        """By class numbers (N,), the right ones and by head, and the fused probabilities (N, C)."""
        samples = np.bincount(np.asarray(target), minlength=len(names))
        accuracy = {head: class_accuracies(target, of_head, len(names)) for head, of_head in predicted.items()}
        return cls(names, samples, accuracy, average_precisions(target, fused))

    @classmethod
    def of_predictions(cls, names: Sequence[str], predictions: Predictions) -> "ByClass":
        """Of what a model has just predicted."""
        classes, (fused, *_) = predictions.classes, predictions.probabilities.values()
        return cls.of(names, predictions.target, classes, fused)

    @classmethod
    def of_run(cls, arrays: Mapping[str, np.ndarray], rule: str) -> "ByClass | None":
        """Of a run's predictions.npz; None for the file of an older run, which has no probabilities."""
        if f"{rule}_probabilities" not in arrays:
            return None
        predicted = dict(zip(arrays["heads"].tolist(), arrays[f"{rule}_by_head"].T, strict=True))
        return cls.of(arrays["classes"].tolist(), arrays["target"], predicted, arrays[f"{rule}_probabilities"][:, 0])

    @classmethod
    def mean(cls, seeds: Sequence["ByClass"]) -> "ByClass":
        """The means over runs on the same test samples."""
        first = seeds[0]
        accuracy = {head: np.mean([one.accuracy[head] for one in seeds], axis=0) for head in first.accuracy}
        return cls(first.names, first.samples, accuracy, np.mean([one.precision for one in seeds], axis=0))

    def grid(self, full: bool = False) -> tuple[list[str], list[list[object]]]:
        """A header and a row per class, then one of the means over classes; in % to a tenth, or `full` as shares."""
        columns = [*self.accuracy.values(), self.precision]
        means = [column[self.samples > 0].mean() for column in columns]
        header = ["class", "samples", *self.accuracy, "AP"]
        rows = [[*row] for row in zip(self.names, self.samples.tolist(), *columns, strict=True)]
        rows.append(["mean", int(self.samples.sum()), *means])
        return header, [[*row[:2], *(cell(value, full) for value in row[2:])] for row in rows]

    def plain(self) -> dict[str, dict]:
        """{class: its numbers}, for JSON; None for a class without samples."""
        return {
            name: {
                "samples": int(self.samples[k]),
                "accuracy": {head: cell(values[k], full=True) for head, values in self.accuracy.items()},
                "average_precision": cell(self.precision[k], full=True),
            }
            for k, name in enumerate(self.names)
        }


def cell(share: float, full: bool) -> object:
    """A share as a table shows it: in full, None for NaN; or in %, a dash for NaN."""
    if full:
        return None if np.isnan(share) else float(share)
    return "-" if np.isnan(share) else f"{100 * share:.1f}"
