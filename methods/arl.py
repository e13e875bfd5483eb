"""ARL: Improving Multimodal Learning via Imbalanced Learning (ICCV 2025).

The average of two predictors varies least when each weighs the inverse of its own variance. So the modalities should
not be relied on equally, but the steadier one more. The loss has a term for each modality, and the encoders' gradients
are enlarged, most where the prediction depends on the modality less than its variance allows, which its entropy tells:

    loss         L = CE(z, y) + gamma sum_m CE(z^m, y)
    entropy      H_m = the mean over the batch of that of softmax(z_i^m);  h_m = H_m / sum_k H_k, at least 0.6 / M
    target       q_m = (1 / h_m) / sum_k (1 / h_k)
    dependence   d_m = mean_i sum_c |z^m_ic|, divided by the sum over the modalities
    coefficient  k = softmax_m(T q_m r_m),  r_m = prod_{j != m} d_j / sum_l prod_{j != l} d_j
    gradient     g <- (1 + k_m) g of all parameters of encoder m, from the epoch on that --warmup_epochs names

For two modalities r_m is the other one's d. For more, which the paper leaves open, it keeps the rule that all k are
equal where every d_m is in proportion to its q_m. The sum of all factors is M + 1.

The code published first stops with an error before it trains. Where it is repaired so far that it runs, k is computed
and never used: after six epochs with gamma = 1 every encoder's gradient is multiplied by 1.5 (`--variant official`).
Its later version uses the k of the step before. Both read z^m with the whole bias of the head.
"""

import torch
from torch import Tensor

from inforeg.scores import full_precision
from methods.modulation import Modulation
from utils.numbers import count, not_negative

VARIANTS = {
    "paper": dict(coefficients="asymmetric", warmup_gamma=None),
    "official": dict(coefficients="uniform", warmup_gamma=1.0),
}


class ARL(Modulation):
    """Joint training with unimodal losses and enlarged gradients; one forward and one backward pass a step."""

    takes_unimodal_loss = False  # it has them, with a weight of its own
    columns = ("coefficient", "entropy", "dependence")  # 1 + k_m, H_m and d_m

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's coefficients, or what the code published first does once it runs; --coefficients and "
            "--warmup_gamma follow",
        )  # fmt: skip
        group.add_argument(
            "--gamma", type=not_negative, default=4.0,
            help="of the unimodal losses; paper: 4; public code: 4 for CREMA-D, 3 for Kinetics-Sounds, 1 for VGGSound",
        )  # fmt: skip
        group.add_argument(
            "--temperature", type=not_negative, default=4.0,
            help="T; larger favours one encoder more, 0 none; public code: 8 for CREMA-D, 4 for other data",
        )  # fmt: skip
        group.add_argument(
            "--coefficients", choices=("asymmetric", "uniform", "none"),
            help="1 + k_m (paper), 1 + 1/M for every encoder (public code), or gradients as they are",
        )  # fmt: skip
        group.add_argument(
            "--warmup_epochs", type=count, default=6, help="first epochs, without coefficients; public code"
        )
        group.add_argument(
            "--warmup_gamma", type=not_negative, help="gamma in those epochs; by default the same; public code: 1"
        )

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant] | {"clip_norm": 40.0}  # public code

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def raises(self, modality: str) -> bool:
        """Whether this epoch may enlarge the gradient of `modality`."""
        return self.epoch >= self.args.warmup_epochs and self.in_force(modality)

    @property
    def gamma(self) -> float:
        """The weight of the unimodal losses in this epoch."""
        early = self.epoch < self.args.warmup_epochs and self.args.warmup_gamma is not None
        return self.args.warmup_gamma if early else self.args.gamma

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        for name, logits in output.unimodal.items():
            losses[f"loss_{name}"] = self.cross_entropy(logits, output.target)
            losses["loss"] = losses["loss"] + self.gamma * losses[f"loss_{name}"]
        return losses

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        logits = full_precision(torch.stack(list(output.unimodal.values())))
        entropy, reliance = entropies(logits), dependence(logits)
        factors = self.gated(1 + self.share(entropy, reliance), neutral=1, acts=self.raises)
        for column, values in (("coefficient", factors), ("entropy", entropy), ("dependence", reliance)):
            self.note(column, values)
        self.scale_encoders(factors)

    def share(self, entropy: Tensor, reliance: Tensor) -> Tensor:
        """(M,) k by --coefficients."""
        if self.args.coefficients == "asymmetric":
            return coefficients(inverse_shares(entropy), reliance, self.args.temperature)
        return torch.full_like(entropy, 1 / len(entropy) if self.args.coefficients == "uniform" else 0)


def entropies(logits: Tensor) -> Tensor:
    """(M,) H_m of logits (M, B, C)."""
    log_p = logits.log_softmax(dim=2)
    return -(log_p.exp() * log_p).sum(dim=2).mean(dim=1)


def inverse_shares(entropy: Tensor) -> Tensor:
    """(M,) q_m of H_m; all the same where no entropy is left."""
    h = normalised(entropy).clamp(min=0.6 / len(entropy))
    return normalised(1 / h)


def dependence(logits: Tensor) -> Tensor:
    """(M,) d_m of logits (M, B, C)."""
    return normalised(logits.abs().sum(dim=2).mean(dim=1))


def coefficients(target: Tensor, reliance: Tensor, temperature: float) -> Tensor:
    """(M,) k of q_m and d_m; they sum to 1."""
    itself = torch.eye(len(reliance), dtype=torch.bool, device=reliance.device)
    others = torch.where(itself, 1.0, reliance).prod(dim=1)
    return (temperature * target * normalised(others)).softmax(dim=0)


def normalised(values: Tensor) -> Tensor:
    """(M,) values from 0 divided by their sum; zeros where all are zero."""
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
