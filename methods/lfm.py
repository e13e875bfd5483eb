"""LFM: Facilitating Multimodal Classification via Dynamically Learning Modality Gap (NeurIPS 2024).

The modalities meet one and the same label at different speeds, which opens a gap between them. A loss that knows no
labels and matches the modalities' features closes it; its weight is large at first and then falls:

    L    = (1 - alpha) CE(z, y) + alpha L_MM
    L_MM = -1/(2B) sum_i [ log softmax_k(s(f_i^a, f_k^v) / tau)_i + log softmax_k(s(f_k^a, f_i^v) / tau)_i ]

with s the cosine, k over the batch, and for M > 2 the mean over all pairs of modalities (ours). The weight in epoch t,
counted from 1, is

    heuristic  alpha = 1 - exp(-1/t)
    learned    alpha <- clip(alpha - eta d), once before every epoch but the first

where d is how the classification loss of a withheld share changes with alpha by one gradient step on training samples,
to first order and for a step of length one:

    d = grad CE(withheld) . grad (CE - L_MM)(training)

The paper's own bilevel step has the inverse of a Hessian, which at a minimum of a network is not defined, and measures
the outer loss on the training data. Nothing of the paper's learned rule is in the public code's command: its weight is
a polynomial of the epoch (`fitted`), and its L_MM no InfoNCE but a divergence of the modalities' logits, by the mean m
of their probabilities p and q:

    js        1/2 KL(p || m) + 1/2 KL(q || m), at most log 2
    official  1/2 KL(m || p) + 1/2 KL(m || q), the arguments in the wrong order, without a bound

One forward and one backward pass a step; `learned` reads the withheld share and as many training samples every epoch.
"""

import math
from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dataset.loader import mix
from inforeg.scores import full_precision
from methods.base import Method
from methods.modulation import need_two
from models.encoders import initialise
from models.multimodal import Output
from utils.numbers import not_negative, positive, positive_float, probability, proper_share
from utils.precision import autocast
from utils.stopping import stop_if_asked

VARIANTS = {
    "paper": dict(alignment="infonce", alpha_schedule="heuristic"),
    "official": dict(alignment="official", alpha_schedule="fitted", fusion="sum"),
}
# 1 - alpha in the share of the epochs, constant term first: of degree 5, as the public code's polynomial for CREMA-D,
# and within 0.003 of its values in the epochs 0, 50, 100, 150, 177, 183 (its largest, above 1) and 199 of 200.
FITTED = (0.205, 0.721, 4.544, -22.526, 34.936, -16.979)


class LFM(Method):
    """Joint training beside a loss that matches the modalities, by a weight that changes from epoch to epoch."""

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's losses and its heuristic weight, or the public code's; the next two flags follow from it",
        )  # fmt: skip
        group.add_argument(
            "--alignment", choices=("infonce", "js", "official"),
            help="L_MM: InfoNCE of the features (paper), the Jensen-Shannon divergence of the logits, or the public "
            "code's with its arguments swapped",
        )  # fmt: skip
        group.add_argument(
            "--alpha_schedule", choices=("heuristic", "learned", "constant", "fitted"),
            help="1 - exp(-1/t) in epoch t from 1 (paper); learned on a withheld share (ours, after the paper); "
            "constant; or the public code's polynomial, from 0 to 1 and over --epochs",
        )  # fmt: skip
        group.add_argument(
            "--alpha", type=probability, default=0.632,
            help="the weight that is constant, or with which learning begins; ours: the heuristic's first, 1 - 1/e",
        )  # fmt: skip
        group.add_argument("--alpha_lr", type=not_negative, default=0.01, help="eta of the learned weight; ours")
        group.add_argument(
            "--temperature", type=positive_float, default=0.07, help="tau; ours: the paper's was not seen"
        )
        group.add_argument(
            "--projection", type=positive, metavar="DIM",
            help="compare linear maps of the features to so many numbers, which features of several widths need; ours",
        )  # fmt: skip
        group.add_argument(
            "--held_out", type=proper_share, default=0.1,
            help="share of the training split that a learned weight has withheld; ours",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant]

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        need_two(self, model)
        super().__init__(args, model)
        if args.projection:
            if args.alignment != "infonce":
                raise ValueError(f"--projection is of features, --alignment {args.alignment} of logits: leave one away")
            layers = {name: nn.Linear(dim, args.projection) for name, dim in model.dims.items()}
            model.projections = nn.ModuleDict(layers).apply(initialise)
        elif args.alignment == "infonce" and len(set(model.dims.values())) > 1:
            widths = ", ".join(f"{name} {dim}" for name, dim in model.dims.items())
            raise ValueError(f"LFM compares features of one width, not {widths}: use --projection 128")
        if args.alpha_schedule == "learned":
            self.held_out = args.held_out
        self.alpha = args.alpha  # of this epoch

    def bound_to(self, epochs: int) -> str | None:
        return "its weight falls with the share of its epochs" if self.args.alpha_schedule == "fitted" else None

    def on_epoch_start(self, run) -> None:
        schedule = self.args.alpha_schedule
        if schedule == "heuristic":
            self.alpha = 1 - math.exp(-1 / (self.epoch + 1))
        elif schedule == "fitted":
            self.alpha = fitted(self.epoch / self.args.epochs)
        elif schedule == "learned" and self.epoch:
            self.alpha = min(max(self.alpha - self.args.alpha_lr * self.hypergradient(run), 0.0), 1.0)

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        losses["loss_matching"] = self.matching(output)
        if self.alpha:  # without a weight not even 0 times an infinite term
            losses["loss"] = losses["loss"] + self.alpha * (losses["loss_matching"] - losses["loss_joint"])
        return losses

    def matching(self, output: Output) -> Tensor:
        """L_MM, the mean over all pairs of modalities."""
        if self.args.alignment == "infonce":
            seen = output.features
            if self.args.projection:
                seen = {name: layer(seen[name]) for name, layer in self.model.projections.items()}
            directions = [F.normalize(full_precision(feature)) for feature in seen.values()]
            terms = [infonce(a, b, self.args.temperature) for a, b in combinations(directions, 2)]
        else:
            log_p = [full_precision(z).log_softmax(dim=1) for z in output.unimodal.values()]
            terms = [divergence(p, q, self.args.alignment == "official") for p, q in combinations(log_p, 2)]
        return sum(terms) / len(terms)

    def hypergradient(self, run) -> float:
        """d of the learned weight, from the withheld share and as many samples of the training split."""
        # A generator of its own, so that a resumed run draws the same samples and no other draw is moved.
        draws = torch.Generator().manual_seed(mix(run.args.seed, run.epoch, -2))
        chosen = torch.randperm(len(run.plain), generator=draws)[: len(run.held_out)].tolist()
        outer = self.gradient(run, run.held_out, self.classification)
        inner = self.gradient(
            run, Subset(run.plain, chosen), lambda output: self.classification(output) - self.matching(output)
        )
        return sum((p * q).sum() for p, q in zip(outer, inner, strict=True)).item()

    def classification(self, output: Output) -> Tensor:
        """The joint loss, without those of single modalities: what 1 - alpha is the weight of."""
        return self.cross_entropy(output.logits, output.target)

    def gradient(self, run, data: Dataset, loss: Callable[[Output], Tensor]) -> list[Tensor]:
        """The gradient of the mean of `loss` over the batches of `data`, in evaluation mode; p.grad stays as it is."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in trained]
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in run.loader(data, shuffle=False):
                batch = batch.to(run.device)
                with autocast(run.device, run.args.precision):
                    part = loss(self.forward(batch)) * (len(batch) / len(data))
                grads = torch.autograd.grad(part, trained, materialize_grads=True)
                total = [mean + grad for mean, grad in zip(total, grads, strict=True)]
                stop_if_asked()
        finally:
            self.model.train(was_training)
        return total

    def on_epoch_end(self, run) -> dict:
        return super().on_epoch_end(run) | {"matching_weight": dict.fromkeys(self.model.modalities, self.alpha)}

    def state_dict(self) -> dict:
        return super().state_dict() | {"alpha": self.alpha}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.alpha = state["alpha"]


def fitted(share: float) -> float:
    """alpha after this share of the epochs by the public code's polynomial, from 0 to 1."""
    return min(max(1 - sum(c * share**k for k, c in enumerate(FITTED)), 0.0), 1.0)


def infonce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of directions a and b (B, dim), whose rows are the samples; 0 for a batch of one."""
    with torch.autocast(a.device.type, enabled=False):  # the temperature magnifies what bfloat16 rounds away
        similarity = a @ b.T / temperature
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def divergence(log_p: Tensor, log_q: Tensor, swapped: bool = False) -> Tensor:
    """Mean over the batch of 1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2; of log-probabilities (B, C).

    `swapped`: of 1/2 KL(m || p) + 1/2 KL(m || q).
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    if swapped:
        return (log_m.exp() * (log_m - (log_p + log_q) / 2)).sum(dim=1).mean()
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(dim=1).mean() / 2
