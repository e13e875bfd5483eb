"""Diagnosing and Re-learning for Balanced Multimodal Learning (Wei, Li, Feng and Hu, ECCV 2024).

Joint training. After every E epochs, at most R times, each encoder is diagnosed on a share of the training split that
is withheld from training, and then set back towards its initial weights, the further the more it has memorised:

    purity    P = 1/n sum over clusters of the largest class count, of k-means with one cluster per class
    gap       g_m = |P_train^m - P_held_out^m|
    strength  s_m = tanh(lambda g_m)
    reset     w_m <- s_m w_m^0 + (1 - s_m) w_m

The clusters are those of the encoder's features, each dimension scaled to [-1, 1] over the set it is clustered in.
The reset moves every parameter of every encoder, batch norm's scale and shift with them; the running statistics, the
head and the optimizer's momentum stay as they are.

Where the public code does something else:
- It trains its method without augmentation and on 5954 samples, its baseline with augmentation and on all 6698. Here
  training is the same for every method, but for the share withheld; the diagnosis looks without augmentation.
- It diagnoses after 21, 41 and 61 epochs of training (it tests a number that starts at 0), here after E, 2E, ...
- It keeps a published list of withheld clips, here they are drawn by class, the same for every seed.
- Its k-means has as many starts as scikit-learn takes by default, one today; here it has ten.
"""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from methods.base import Method
from utils.errors import DataError
from utils.numbers import count, not_negative, positive, proper_share


def purity(features: Tensor, target: Tensor, classes: int) -> float:
    """Share of the samples (N, dim) that belong to the largest class of their cluster; one cluster per class."""
    from sklearn.cluster import KMeans  # here, since it takes seconds to load
    from sklearn.metrics.cluster import contingency_matrix

    points = features.double().numpy()
    low, high = points.min(axis=0), points.max(axis=0)
    points = 2 * (points - low) / np.where(high > low, high - low, 1) - 1
    # Several threads add up in an order that is not fixed, and a resumed run has to find the same clusters.
    with threadpool_limits(1):
        clusters = KMeans(classes, n_init=10, random_state=0).fit_predict(points)
    return float(contingency_matrix(target.numpy(), clusters).max(axis=0).sum() / len(target))


@torch.no_grad()
def reset(parameters: list[Tensor], initial: list[Tensor], strength: float) -> None:
    """w <- s w^0 + (1 - s) w, in place; exact for s 0 and 1."""
    for p, start in zip(parameters, initial, strict=True):
        p.mul_(1 - strength).add_(start.to(p.device), alpha=strength)


class Relearning(Method):
    """Diagnosis and re-initialisation at the start of the epochs E, 2E, ..., RE; joint training otherwise."""

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--every", type=positive, default=20, help="E, epochs between two diagnoses; public code")
        group.add_argument("--times", type=count, default=3, help="R, diagnoses at most; public code")
        group.add_argument("--strength", type=not_negative, default=3.0, help="lambda of tanh(lambda g); public code")
        group.add_argument(
            "--held_out", type=proper_share, default=0.1, help="share of the training split withheld for the diagnosis"
        )

    def __init__(self, args, model):
        super().__init__(args, model)
        self.held_out = args.held_out
        self.initial = {name: [p.detach().clone() for p in e.parameters()] for name, e in model.encoders.items()}
        self.diagnosis: dict[str, dict[str, float]] = {}  # this epoch's, by metric and modality

    def on_fit_start(self, run) -> None:
        if len(run.held_out) < self.model.classes:
            raise DataError(
                f"{len(run.held_out)} samples are withheld, fewer than the {self.model.classes} classes, for each of "
                "which the diagnosis makes a cluster: raise --held_out"
            )

    def due(self, epoch: int) -> bool:
        """Whether a diagnosis comes before `epoch` (from 0)."""
        return epoch > 0 and epoch % self.args.every == 0 and epoch // self.args.every <= self.args.times

    def on_epoch_start(self, run) -> None:
        # Not at the end of the epoch before, whose evaluation is to see the weights that it has trained.
        self.diagnosis = self.diagnose(run) if self.due(run.epoch) else {}
        for name, strength in self.diagnosis.get("reset", {}).items():
            reset(list(self.model.encoders[name].parameters()), self.initial[name], strength)

    def diagnose(self, run) -> dict[str, dict[str, float]]:
        """`purity_train`, `purity_held_out` and the strength of the `reset` that follows, by modality."""
        metrics: dict[str, dict[str, float]] = {}
        for split, data in (("train", run.plain), ("held_out", run.held_out)):
            seen = run.collect(data, lambda batch: self.model.encode(batch.inputs) | {"target": batch.target})
            target = seen.pop("target")
            metrics[f"purity_{split}"] = {name: purity(f, target, self.model.classes) for name, f in seen.items()}
        gaps = {name: abs(metrics["purity_train"][name] - p) for name, p in metrics["purity_held_out"].items()}
        metrics["reset"] = {
            name: 0.0 if name in self.model.frozen else float(np.tanh(self.args.strength * gap))
            for name, gap in gaps.items()
        }
        return metrics

    def on_epoch_end(self, run) -> dict:
        none = dict.fromkeys(self.model.modalities)
        metrics = {name: self.diagnosis.get(name, none) for name in ("purity_train", "purity_held_out", "reset")}
        return super().on_epoch_end(run) | metrics

    def state_dict(self) -> dict:
        return super().state_dict() | {"initial": self.initial, "diagnosis": self.diagnosis}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.initial, self.diagnosis = state["initial"], state["diagnosis"]
