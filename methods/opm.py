"""OPM, alone and with OGM: On-the-fly Modulation for Balanced Multimodal Learning (TPAMI 2024).

The features of the modality that does better are dropped, sample by sample, so that the fusion has to use the other:

    score      P_m = sum_i softmax(z_i^m)_{y_i}, from detached features and head, before anything is dropped
    lead       r_m = tanh(relu(P_m / P_other - 1)); for M > 2 the mean of the others' P stands for P_other
    drop rate  q_m = clip(q_base (1 + lam r_m), 0, 1) if r_m > 0, else 0
    features   f_i^m <- b_i^m f_i^m / (1 - theta),  b_i^m ~ Bernoulli(1 - q_m),  theta = sum_m d_m q_m / sum_m d_m

once per batch with probability p_exe, and not at all otherwise; d_m is the length of f^m. The rescaling is for all
modalities alike: on average a feature is multiplied by (1 - q_m) / (1 - theta), which is above 1 for the weaker and
below 1 for the dominant one. Evaluation drops and rescales nothing.

The public code takes out samples that have lost every modality. There are none: the weakest modality has r_m = 0 and is
never dropped, so theta stays below 1, too. Of the public code is also that the first epochs are plain joint training.

OPM+OGM then damps the encoders' gradients as ogm.py does, by the same P_m. One forward and one backward pass a step;
the unimodal read-out is computed a second time, of the features that the fusion sees.
"""

import torch
from torch import Tensor

from inforeg.scores import confidence
from methods.modulation import Modulation, ratio_to_others
from methods.ogm import OGM
from utils.numbers import count, not_negative, probability


def drop_rates(score: Tensor, q_base: float, lam: float) -> Tensor:
    """(M,) q_m of the modalities' scores."""
    ratio = ratio_to_others(score)
    lead = torch.tanh(torch.relu(ratio - 1))
    return torch.where(ratio > 1, (q_base * (1 + lam * lead)).clamp(0, 1), 0.0)


class OPM(Modulation):
    """Prediction modulation between encoders and fusion."""

    columns = ("drop_rate",)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--q_base", type=probability, default=0.5, help="drop rate of the smallest lead; public script"
        )
        group.add_argument("--lam", type=not_negative, default=0.5, help="growth of the drop rate; public script")
        group.add_argument("--p_exe", type=probability, default=0.7, help="share of batches that drop; public script")
        group.add_argument(
            "--warmup_epochs", type=count, default=6, help="first epochs, of joint training; public code"
        )

    def drops(self, modality: str) -> bool:
        """Whether this epoch may drop features of `modality`."""
        return self.epoch >= self.args.warmup_epochs and self.in_force(modality)

    @torch.no_grad()
    def _scales(self, features, target) -> Tensor:
        """(B, M) what each sample's features are multiplied by."""
        self.score = confidence(self.model.unimodal(features), target)
        rate = self.gated(drop_rates(self.score, self.args.q_base, self.args.lam), neutral=0, acts=self.drops)
        self.note("drop_rate", rate)
        dims = self.model.dims.values()
        theta = sum(d * q for d, q in zip(dims, rate, strict=True)) / sum(dims)
        # Drawn and decided on the device: nothing waits for it.
        kept = torch.rand(len(target), len(rate), dtype=rate.dtype, device=rate.device) >= rate
        executed = torch.rand((), device=rate.device) < self.args.p_exe
        return torch.where(executed, kept / (1 - theta), 1.0)

    def modulate(self, features, batch):
        scales = self._scales(features, batch.target).unsqueeze(2).unbind(dim=1)
        pairs = zip(features.items(), scales, strict=True)
        return {name: feature * scale.to(feature.dtype) for (name, feature), scale in pairs}, batch.target


class OPMWithOGM(OPM, OGM):
    """Both: features dropped on the way forward, gradients damped on the way back, by the same scores."""

    columns = OPM.columns + OGM.columns

    @classmethod
    def add_args(cls, group) -> None:
        OPM.add_args(group)
        OGM.add_args(group)

    @classmethod
    def defaults(cls, args) -> dict:
        return {"alpha": 0.8, "modulation_ends": 60}  # the public code's script for OGM

    def damps(self, modality: str) -> bool:
        # The warm-up is for both.
        return self.drops(modality) and super().damps(modality)

    def performance(self, output) -> Tensor:
        return self.score
