"""UMT, the Uni-Modal Teacher: On Uni-Modal Feature Learning in Supervised Multi-Modal Learning (ICML 2023).

Joint training is done as soon as the easier modality explains the training set, and learns too few of the features that
training on one modality alone would have found. Here the encoders learn these from unimodal teachers, trained before:

    L = CE(z, y) + b sum_m mean (f^m - f_T^m)^2       f_T^m: the feature of the teacher of modality m, frozen

with the mean over all entries of the batch's features: repeating each entry changes nothing, so a b for sums of squares
is a b for means divided by the feature's width. The authors' code was not found; distance and b are those of the public
re-implementations. BalanceBenchmark's teachers are in training mode, which makes a sample's target depend on the other
samples of its batch, and drift; here they are in evaluation mode.

UME, what the paper compares it with, is the mean of the same teachers' predictions: scripts/ensemble.py.
"""

import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.modulation import need_two
from methods.teachers import Taught
from utils.numbers import not_negative


class UMT(Taught):
    """One forward and one backward pass of the model and one forward pass of every teacher a step."""

    @classmethod
    def add_args(cls, group) -> None:
        cls.add_teachers(group)
        group.add_argument(
            "--feature_weight", type=not_negative, default=10.0,
            help="b, of each mean squared distance of features; BalanceBenchmark: 10; 0 is joint training",
        )  # fmt: skip

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        need_two(self, model)
        super().__init__(args, model)

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        for name, (feature, _) in self._taught.items():
            distance = F.mse_loss(full_precision(output.features[name]), full_precision(feature))
            losses[f"loss_distance_{name}"] = self.args.feature_weight * distance
            losses["loss"] = losses["loss"] + losses[f"loss_distance_{name}"]
        return losses
