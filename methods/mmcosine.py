"""MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning (ICASSP 2023).

The modality that learns faster gets the longer features and class weights, hence the larger logits and most of the
gradient. Here only directions count: every modality adds cosines, which are bounded alike.

    z^m_c = s <w^m_c, f^m> / (|w^m_c| |f^m|)       w^m_c: the row of class c of modality m's weight; no bias
    z     = sum_m z^m,  L = CE(z, y)

Prediction is by z, which is trained. The public code's test predicts by a linear head over the same weights instead,
sum_m W^m f^m, which no loss has trained (`--variant official`). Its NCE term has weight 0 by default and is left out.

For concat and sum, whose weights it takes over at the start. In the place of FiLM and the gated fusion the public code
has other networks. One forward and one backward pass a step.
"""

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.base import Method
from models.fusion import Concat, Sum
from utils.numbers import positive_float

SHORTEST = 1e-6  # a shorter feature is divided by this: at zero the gradient is s / SHORTEST, not infinite


class MMCosine(Method):
    """Joint training with cosines in the place of the fusion head, in evaluation too."""

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--scale", type=positive_float, default=10.0,
            help="s of the cosines, the largest unimodal logit; public code: 10 for CREMA-D",
        )  # fmt: skip
        group.add_argument(
            "--variant", choices=("paper", "official"), default="paper",
            help="official: the fused prediction in evaluation is the linear head's, as in the public code's test",
        )  # fmt: skip

    def __init__(self, args, model):
        super().__init__(args, model)
        if not isinstance(model.fusion, Concat | Sum):
            raise ValueError("MMCosine is defined for additive fusions: use --fusion concat or sum")
        model.fusion = Cosine(weights_of(model.fusion), args.scale, args.variant == "official")


class Cosine(nn.Module):
    """z = sum_m z^m of scaled cosines; `linear` has the fused logits of evaluation be sum_m W^m f^m instead."""

    def __init__(self, weights: Mapping[str, Tensor], scale: float, linear: bool = False):
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(w.detach().clone()) for name, w in weights.items()})
        self.scale, self.linear = scale, linear

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        if self.linear and not self.training:
            parts = {name: F.linear(features[name], weight) for name, weight in self.weights.items()}
        else:
            parts = self.unimodal(features)
        return torch.stack(list(parts.values())).sum(dim=0)

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m of the features {modality: (B, dim)}, {modality: (B, classes)} between -s and s."""
        return {
            name: self.scale * F.linear(direction(features[name]), direction(weight))
            for name, weight in self.weights.items()
        }


def direction(rows: Tensor) -> Tensor:
    """(N, dim) rows of length 1; one of zeros stays zeros."""
    return F.normalize(full_precision(rows), dim=1, eps=SHORTEST)


def weights_of(fusion: Concat | Sum) -> dict[str, Tensor]:
    """{modality: (C, dim)} the weight that an additive fusion has for each modality."""
    if isinstance(fusion, Sum):
        return {name: head.weight for name, head in fusion.heads.items()}
    return dict(zip(fusion.modalities, fusion.head.weight.split(fusion.dims, dim=1), strict=True))
