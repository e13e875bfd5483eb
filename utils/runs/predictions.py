"""What a model predicts of the test samples: in memory, in a checkpoint, and in predictions.npz."""

import io
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from utils.errors import RunError
from utils.files import read_checked, remedy_for, write_checked
from utils.runs.files import damage

FUSED = "fused"


@dataclass
class Predictions:
    """What a model predicts of N samples, in their order, on the CPU.

    target (N,) class numbers; loss (N,) of the fused prediction; by head, which is FUSED or the modality of a read-out:
    classes (N,), the numbers of the largest logits, and probabilities (N, C) float32.
    """

    target: Tensor
    loss: Tensor
    classes: dict[Hashable, Tensor]
    probabilities: dict[Hashable, Tensor]

    def stacked(self) -> dict[str, Tensor]:
        """{"classes": (N, H) int32, "probabilities": (N, H, C) float16} of all H heads, FUSED the first."""
        classes = torch.stack(list(self.classes.values()), dim=1).int()
        return {"classes": classes, "probabilities": torch.stack(list(self.probabilities.values()), dim=1).half()}


def arrays_of(rule: str, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of a rule, as predictions.npz has them; `stacked`: those of its epoch (`Predictions.stacked`)."""
    classes, probabilities = stacked["classes"], stacked["probabilities"]
    return {rule: classes[:, 0], f"{rule}_by_head": classes, f"{rule}_probabilities": probabilities}


def write_predictions(folder: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write predictions.npz: arrays about the N test samples in their order.

    names (N,), classes (C,) and heads (H,) are what the samples, the classes and the predictions are called, the first
    of the latter FUSED, then the modalities. target (N,) is the right class's number. By a rule, <rule> (N,) is that
    of the fused prediction, <rule>_by_head (N, H) that of each head, <rule>_probabilities (N, H, C) float16.
    """
    kept = {name: np.asarray(values) for name, values in arrays.items()}
    kept = {name: array.astype(np.int32) if array.dtype.kind in "iu" else array for name, array in kept.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)
    write_checked(folder / "predictions.npz", buffer.getvalue())


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz; {} if there is none yet. Those of older runs are `target` and <rule> alone.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / "predictions.npz"
    if not path.exists():
        return {}
    content = read_checked(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # NumPy, zipfile and zlib each raise their own
        raise RunError(f"{path} cannot be read ({error}): {remedy_for(path)}") from None
    check_arrays(path, arrays)
    return arrays


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises DamageError unless the arrays of a predictions.npz are as `write_predictions` describes them."""
    samples, classes, heads = (arrays[name].shape if name in arrays else () for name in ("target", "classes", "heads"))
    if len(samples) != 1 or not samples[0]:
        raise damage(path, "no target")
    for name, array in arrays.items():
        shape = samples
        if name in ("classes", "heads"):
            shape = array.shape[:1]
        elif name.endswith("_by_head"):
            shape = samples + heads
        elif name.endswith("_probabilities"):
            shape = samples + heads + classes
        if array.shape != shape:
            raise damage(path, f"{name} has the shape {array.shape}, not {shape}")
        numbers = name not in ("classes", "heads", "names") and not name.endswith("_probabilities")
        if numbers and (array.dtype.kind not in "iu" or array.min() < 0 or (classes and array.max() >= classes[0])):
            raise damage(path, f"{name} holds what is no class's number")
