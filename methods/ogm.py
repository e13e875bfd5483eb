"""OGM and OGM-GE: Balanced Multimodal Learning via On-the-fly Gradient Modulation (CVPR 2022).

The encoder whose modality does better on the batch gets a smaller gradient, so that the other can catch up:

    score        s_m = sum_i softmax(z_i^m)_{y_i}
    ratio        rho_m = s_m / s_other; for M > 2, which the paper leaves open, s_m / mean of the others' scores
    coefficient  k_m = 1 - tanh(alpha rho_m) if rho_m > 1, else 1
    OGM          g <- k_m g
    OGM-GE       g <- k_m g + eps,  eps ~ N(0, sigma^2), sigma the standard deviation of the entries of that g

g is the gradient of one convolution weight (a 4-D tensor) of encoder m; batch norm, linear layers and the fusion head
are left alone, as in the public code. An encoder without convolutions, which that code would leave untouched, is
modulated in all its weight matrices: a transformer's projections, not its biases and norms. The noise goes to every
encoder, also to those with k_m = 1. The ratio enters as it is, not less 1: k_m jumps from 1 to 1 - tanh(alpha) where a
modality takes the lead.

The public code differs in one point that is not followed: at an exact tie it damps the first modality. One forward and
one backward pass a step.
"""

import torch
import torch.nn as nn
from torch import Tensor

from inforeg.scores import confidence
from methods.modulation import Modulation, ratio_to_others
from utils.numbers import not_negative


def coefficients(score: Tensor, alpha: float) -> Tensor:
    """(M,) k_m of the modalities' scores."""
    ratio = ratio_to_others(score)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(encoder: nn.Module) -> list[nn.Parameter]:
    """The convolution weights, or every weight matrix where there are none."""
    weights = [p for p in encoder.parameters() if p.ndim >= 2]
    return [p for p in weights if p.ndim >= 4] or weights


class OGM(Modulation):
    """Gradient modulation between backward and the optimizer's step."""

    columns = ("coefficient",)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--alpha", type=not_negative, default=0.1,
            help="k = 1 - tanh(alpha ratio); public code's README: 0.1, and 0.8 for CREMA-D",
        )  # fmt: skip
        group.add_argument(
            "--noise", type=not_negative, default=0.0,
            help="standard deviation of the noise on a gradient, in units of that gradient's own; 1 is OGM-GE",
        )  # fmt: skip
        cls.add_epochs(group, 0, 50, "public code")

    def __init__(self, args, model):
        super().__init__(args, model)
        self._weights = {name: modulated(encoder) for name, encoder in model.encoders.items()}
        if without := [name for name, weights in self._weights.items() if not weights]:
            raise ValueError(f"OGM acts on weight matrices; the encoder of {', '.join(without)} has none")

    def damps(self, modality: str) -> bool:
        """Whether this epoch may change the gradient of `modality`."""
        return self.in_epochs() and self.in_force(modality)

    def performance(self, output) -> Tensor:
        """(M,) the scores that decide."""
        return confidence(output.unimodal, output.target)

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        k = self.gated(coefficients(self.performance(output), self.args.alpha), neutral=1, acts=self.damps)
        self.note("coefficient", k)
        for k_m, (name, weights) in zip(k, self._weights.items(), strict=True):
            grads = [p.grad for p in weights if p.grad is not None]  # none in a frozen encoder
            if self.damps(name) and grads:
                self._modulate(grads, k_m)

    def _modulate(self, grads: list[Tensor], k: Tensor) -> None:
        if self.args.noise == 0:
            torch._foreach_mul_(grads, k)
            return
        # Of the gradient before scaling. Over n, not n - 1: a weight of one entry gets no noise rather than NaN.
        deviations = [self.args.noise * g.std(correction=0) for g in grads]
        # In the memory layout of g: drawn in a row, since CPUs fill channels_last eight times as slowly.
        noise = [torch.randn(g.numel(), dtype=g.dtype, device=g.device).as_strided(g.shape, g.stride()) for g in grads]
        torch._foreach_mul_(noise, deviations)
        torch._foreach_mul_(grads, k)
        torch._foreach_add_(grads, noise)


class OGMGE(OGM):
    """OGM with generalisation enhancement: the noise is on."""

    @classmethod
    def defaults(cls, args) -> dict:
        return {"noise": 1.0}
