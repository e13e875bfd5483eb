"""What the two stages of CSOL share: each is a Method, which the loop of engine/ trains as it trains every other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from inforeg.window import FisherTrace
from localisation import metrics
from localisation.model import Localiser, suppressed
from methods.base import Method
from methods.run import Run
from utils.numbers import not_negative, positive, positive_float
from utils.precision import autocast

Look = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
SCALE = 3.0  # c of the model's P, in the public code's test


@dataclass
class Located:
    """A step's features, as `Localiser.encode` has them, and what was made of them.

    target (B,): the clusters of the samples, where these are what is learned, else zeros; location: by frame the logits
    (B, h, w) of the map l; logits: by modality the (B, K) that are compared with the target.
    """

    features: dict[str, Tensor]
    target: Tensor
    location: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)

    def right(self) -> dict[str, Tensor]:
        """How many are right: `pairs`, of own and foreign frames (each half a sample), and by modality the clusters."""
        found = {name: (logits.argmax(dim=1) == self.target).sum() for name, logits in self.logits.items()}
        if self.location:
            own, other = (self.location[name].amax(dim=(1, 2)) > 0 for name in ("visual", "other"))
            found["pairs"] = (own.sum() + (~other).sum()) / 2
        return found


class Stage(Method):
    """A stage of CSOL. Labels and boxes are read by `evaluate` alone, and for `matching`, which nothing else uses.

    A stage has no prime learning window: its losses change from epoch to epoch, and the traces of their gradients,
    which are recorded, with them.
    """

    name: ClassVar[str]  # of its runs' folders, in the place of a method's
    takes_unimodal_loss = False
    model: Localiser

    def __init__(self, args, model: Localiser, categories: Sequence[str]):
        self.args, self.model, self.categories = args, model, list(categories)
        self.trace = FisherTrace(model.encoders)
        self._notes = {}
        self.matching: list[int] | None = None  # (K,) the category of each cluster, for evaluation

    @classmethod
    def add_common(cls, group) -> None:
        """Add the flags of training that both stages have."""
        group.add_argument("--batch_size", type=positive, default=32, help="clips a step, each with two frames")
        group.add_argument("--lr", type=positive_float, default=1e-4, help="of Adam")
        group.add_argument("--weight_decay", type=not_negative, default=1e-4, help="of Adam, on every parameter")

    def locate(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{frame: logits (B, h, w) of l} of the sound with each frame of the features."""
        return {
            name: self.model.location(features["audio"], maps) for name, maps in features.items() if name != "audio"
        }

    def on_epoch_end(self, run) -> dict:
        return {"fisher_trace": self.trace.end_epoch(), "gradient_norm": self.trace.gradient_norm}

    def look(self, run: Run, data: Dataset, fn: Look) -> dict[str, np.ndarray]:
        """`fn` of the features and inputs of every batch of `data` in evaluation mode, concatenated."""
        in_precision = autocast(run.device, self.args.precision)
        seen = run.collect(data, in_precision(lambda batch: fn(self.model.encode(batch.inputs), batch.inputs)))
        return {name: values.float().numpy() for name, values in seen.items()}

    def state_dict(self) -> dict:
        return super().state_dict() | {"matching": self.matching}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.matching = state["matching"]


def told_apart(own: Tensor, other: Tensor) -> Tensor:
    """BCE(max l, 1) of own frames and BCE(max l, 0) of foreign ones, the mean of the two means.

    own: logits (B, h, w); other: logits (B, h, w), or (B, n, h, w) of n parts of the frame, each with a maximum.
    """
    own, other = own.amax(dim=(-2, -1)), other.amax(dim=(-2, -1))
    return (F.softplus(-own).mean() + F.softplus(other).mean()) / 2


def probabilities(
    model: Localiser, features: Mapping[str, Tensor], scale: float = SCALE, suppression: bool = True
) -> Tensor:
    """P (B, K, h, w) of a frame; without `suppression` o takes the place of s."""
    objects = model.class_maps(features["visual"])
    if suppression:
        objects = suppressed(objects, model.location(features["audio"], features["visual"]))
    return (scale * objects).softmax(dim=1)


def objects_of(data) -> list:
    """The objects of every clip."""
    return [data.objects(position) for position in range(len(data))]


def defined(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those that such clips leave undefined."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def sum_by_category(values: np.ndarray, matching, categories: int) -> np.ndarray:
    """(N, C) of values (N, K) by cluster: the sum over a category's clusters."""
    return metrics.class_maps(values[:, :, None, None], np.array(matching), categories)[:, :, 0, 0]
