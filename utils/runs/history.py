"""What is known of a run's epochs: lines of metrics.jsonl, seconds, and the predictions for the test split."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from utils.errors import DamageError, warn
from utils.files import read_checked, write_checked
from utils.runs.folder import RunFolder
from utils.runs.predictions import Predictions, arrays_of, write_predictions

SPLITS = ("val", "test")


@dataclass
class Epoch:
    """A line of metrics.jsonl. `epoch` counts from 0, `lr` is the learning rate that the epoch began with."""

    epoch: int
    lr: float
    train: dict[str, float]  # means over the training samples
    method: dict[str, dict]  # what the method records, by its name and modality
    evaluated: dict[str, dict[str, float]] = field(default_factory=dict)  # metrics by split: val, test

    def line(self) -> dict:
        """The epoch as metrics.jsonl has it, in one dict."""
        return {"epoch": self.epoch, "lr": self.lr, "train": self.train} | self.method | self.evaluated

    def plain(self) -> dict:
        """`line` in values that a checkpoint may hold: NumPy's numbers are Python's, and what is not finite is None."""
        return json.loads(json.dumps(_finite(self.line())))

    @classmethod
    def of_line(cls, line: Mapping) -> "Epoch":
        """The epoch that a line of metrics.jsonl tells of."""
        common = ("epoch", "lr", "train")
        evaluated = {split: line[split] for split in SPLITS if split in line}
        method = {name: value for name, value in line.items() if name not in (*common, *SPLITS)}
        return cls(*(line[name] for name in common), method, evaluated)


class History:
    """The epochs of the run in `folder`; the seconds of each stand apart, since a resumed run repeats the rest.

    `predictions` is about the test samples: `target` (N,), their class numbers, `heads`, what is predicted by, and by
    epoch what is predicted (Predictions.stacked). `names` and `classes` are what samples and classes are called.
    """

    def __init__(self, folder: RunFolder, names: Sequence[str], classes: Sequence[str]):
        self.folder, self.names, self.classes = folder, names, classes
        self.epochs: list[Epoch] = []
        self.seconds: list[float] = []
        self.predictions: dict[int | str, Any] = {}

    def append(self, epoch: Epoch, predictions: Predictions | None, seconds: float) -> None:
        """Add an epoch, and write metrics.jsonl as a whole: a reader never sees half a line.

        `predictions` are those for the test split, if classes are what is learned, kept while a rule may choose the
        epoch.
        """
        self.epochs.append(epoch)
        self.seconds.append(seconds)
        if predictions is not None:
            self.predictions |= {"target": predictions.target.int(), "heads": list(predictions.classes)}
            self.predictions[epoch.epoch] = predictions.stacked()
        kept = {"target", "heads", *self.chosen().values()}
        self.predictions = {key: value for key, value in self.predictions.items() if key in kept}
        if self.folder.writes:
            self.folder.lock.check()
            write_checked(self.folder.path / "metrics.jsonl", self._lines())

    def chosen(self) -> dict[str, int]:
        """The epoch that each selection rule chooses so far: `last`, `oracle`, and `val` with a validation split.

        `oracle` is the best test epoch: the rule behind the papers' numbers, and a look at the test set. Without
        accuracies the last epoch is all.
        """
        chosen = {"last": len(self.epochs) - 1}
        if "accuracy" not in self.epochs[-1].evaluated["test"]:
            return chosen
        chosen["oracle"] = self._best("test")
        return chosen | ({"val": self._best("val")} if "val" in self.epochs[-1].evaluated else {})

    def stalled(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs were not better on the validation split than the best before them."""
        if not patience or not self.epochs:
            return False
        chosen = self.chosen()
        return chosen["last"] - chosen["val"] >= patience

    def _best(self, split: str) -> int:
        """The first epoch with the highest accuracy on `split`."""
        return max(self.epochs, key=lambda epoch: (epoch.evaluated[split]["accuracy"], -epoch.epoch)).epoch

    def result(self) -> dict[str, dict[str, float]]:
        """Test metrics by selection rule, as result.json has them."""
        return {rule: {"epoch": at} | self.epochs[at].evaluated["test"] for rule, at in self.chosen().items()}

    def arrays(self) -> dict[str, ArrayLike]:
        """What predictions.npz holds; of an epoch before a version that kept probabilities, its class numbers alone."""
        arrays = {"names": self.names, "classes": self.classes} | {k: self.predictions[k] for k in ("heads", "target")}
        for rule, epoch in self.chosen().items():
            predicted = self.predictions[epoch]
            arrays |= {rule: predicted} if isinstance(predicted, Tensor) else arrays_of(rule, predicted)
        return arrays

    def finish(self) -> None:
        """Write what a finished run leaves; `done` comes last."""
        folder, result = self.folder, self.result()
        if not folder.writes:
            return
        write_checked(folder.path / "result.json", json.dumps(result, indent=2) + "\n")
        if self.predictions:
            write_predictions(folder.path, self.arrays())
        for name in ("previous.pt", "not_finite.json"):
            (folder.path / name).unlink(missing_ok=True)
        timing = {"seconds": sum(self.seconds), "median_seconds_per_epoch": float(np.median(self.seconds))}
        if len(self.epochs) < folder.args.epochs:
            timing["stopped_early_after_epochs"] = len(self.epochs)
        write_checked(folder.path / "done", json.dumps(timing) + "\n")

    def state_dict(self) -> dict:
        """What a checkpoint holds of it; `epoch` is the last finished one, or -1."""
        done = {"epoch": len(self.epochs) - 1, "rows": self._lines(), "seconds": self.seconds}
        return done | {"predictions": self.predictions}

    def load_state_dict(self, state: Mapping) -> None:
        """Take over what a checkpoint holds, and write metrics.jsonl by it; warn about files that are damaged."""
        self.epochs = [Epoch.of_line(json.loads(line)) for line in state["rows"].splitlines()]
        self.seconds, self.predictions = state["seconds"], state["predictions"]
        if not self.folder.writes:
            return
        metrics, best = self.folder.path / "metrics.jsonl", self.folder.path / "best.pt"
        if not (metrics.is_file() and metrics.read_bytes().startswith(self._lines().encode())):
            warn(f"{metrics} is damaged (the checkpoint has other rows): written again from the checkpoint")
        write_checked(metrics, self._lines())
        if best.exists():
            try:
                read_checked(best)
            except DamageError as error:
                warn(f"{best} is damaged ({error.reason}): only a better epoch writes it again")

    def _lines(self) -> str:
        return "".join(json.dumps(_finite(epoch.line())) + "\n" for epoch in self.epochs)


def _finite(value):
    """JSON has no NaN and no infinity; they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
