"""MBSD: Multimodal Pre-Training with Self-Distillation for Product Understanding in E-Commerce (WSDM 2023).

On every sample a modality that is right teaches each one that gives the true class less, more strongly the larger the
gap. In classes, with p^m = softmax(z^m) and sg for a constant to the gradient:

    s teaches w on sample i   if argmax p^s = y and p^s_y > p^w_y, with weight g = sg(p^s_y - p^w_y)
    L = CE(z, y) + sum_m CE(z^m, y) + a mean_i sum_{s,w} g KL(sg p^s || p^w) + b mean_i sum_{s,w} g D(s, w)
    D = mean_c (sg z^s_c - z^w_c)^2, or that of the features

This is our form of public code for two classes and two modalities, which has the same rule of who teaches. There D is
of features, moves both sides, and the means are over the taught samples (`--variant official`); one encoder and one
classifier serve all inputs. The paper's equations were not seen. BalanceBenchmark's terms are others: a product of two
scalars in the place of the divergence, and no constants, so that descent widens the gap; they are not offered.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.base import Method
from methods.modulation import need_two
from utils.numbers import not_negative

VARIANTS = {
    "paper": dict(match="logits", moved="pupil", average="batch"),
    "official": dict(match="features", moved="both", average="taught"),
}


class MBSD(Method):
    """Joint training with unimodal losses, and modalities that teach one another; one forward and one backward pass."""

    takes_unimodal_loss = False
    columns = ("taught", "teaches")  # the shares of the samples on which the modality was a pupil, and a teacher

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="our form for any number of classes, or the public code's; --match, --moved and --average follow",
        )  # fmt: skip
        group.add_argument("--kl_weight", type=not_negative, default=1.0, help="a, of the divergences; public code: 1")
        group.add_argument("--match_weight", type=not_negative, default=1.0, help="b, of D; public code: 1")
        group.add_argument(
            "--match", choices=("logits", "features"),
            help="what D compares: logits (BalanceBenchmark), or features, which need one width (public code)",
        )  # fmt: skip
        group.add_argument(
            "--moved", choices=("pupil", "both"), help="whom D moves: the pupil, or the teacher too (public code)"
        )
        group.add_argument(
            "--average", choices=("batch", "taught"),
            help="over all samples (BalanceBenchmark), or over those that a pair of modalities learns on (public code)",
        )  # fmt: skip
        group.add_argument(
            "--pairs", choices=("all", "best"), default="all",
            help="every right modality teaches every less sure one, or the surest right one alone; of two the same",
        )  # fmt: skip
        group.add_argument(
            "--readout", choices=("split", "heads"), default="split",
            help="the unimodal logits: of the fusion head (BalanceBenchmark), or of classifiers of their own",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant]

    @property
    def _unimodal_loss(self) -> str:
        return self.args.readout  # its own losses are those of --unimodal_loss

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        need_two(self, model)
        super().__init__(args, model)
        if args.match == "features" and len(set(model.dims.values())) > 1:
            widths = ", ".join(f"{name} {dim}" for name, dim in model.dims.items())
            raise ValueError(f"--match features needs features of one width, not {widths}: use --match logits")
        self._gap: Tensor | None = None  # (M, M, B) of the last batch: how strongly each teaches each

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        logits = full_precision(torch.stack(list(output.unimodal.values())))
        log_p = logits.log_softmax(dim=2)
        self._gap = gaps(log_p, output.target, best=self.args.pairs == "best")
        matched = logits
        if self.args.match == "features":
            matched = full_precision(torch.stack(list(output.features.values())))
        terms = {"kl": divergences(log_p), "match": distances(matched, both=self.args.moved == "both")}
        for name, weight in (("kl", self.args.kl_weight), ("match", self.args.match_weight)):
            losses[f"loss_{name}"] = weight * self.average(self._gap * terms[name])
            losses["loss"] = losses["loss"] + losses[f"loss_{name}"]
        return losses

    def average(self, terms: Tensor) -> Tensor:
        """The sum over pairs (M, M, B) of the means over samples, by --average."""
        if self.args.average == "batch":
            return terms.mean(dim=2).sum()
        return (terms.sum(dim=2) / (self._gap > 0).sum(dim=2).clamp(min=1)).sum()

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        for column, others in (("taught", 0), ("teaches", 1)):
            self.note(column, (self._gap > 0).any(dim=others).to(self._gap).mean(dim=1))


@torch.no_grad()
def gaps(log_p: Tensor, target: Tensor, best: bool = False) -> Tensor:
    """(M, M, B) g of teacher s and pupil w on each sample, 0 where s does not teach w; of log_p (M, B, C)."""
    right = log_p.argmax(dim=2) == target
    true = log_p.gather(2, target.expand(len(log_p), -1).unsqueeze(2)).squeeze(2).exp()
    teaches = right
    if best:
        teaches = right & (true == torch.where(right, true, 0.0).amax(dim=0))
    return (true.unsqueeze(1) - true).clamp(min=0) * teaches.unsqueeze(1)


def divergences(log_p: Tensor) -> Tensor:
    """(M, M, B) KL(sg p^s || p^w) of log_p (M, B, C); the pupil alone has a gradient."""
    teacher = log_p.detach().unsqueeze(1)
    return F.kl_div(log_p.unsqueeze(0), teacher, reduction="none", log_target=True).sum(dim=3)


def distances(values: Tensor, both: bool) -> Tensor:
    """(M, M, B) mean squared differences of values (M, B, K); the pupil alone has a gradient, or both."""
    teacher = values if both else values.detach()
    return (teacher.unsqueeze(1) - values.unsqueeze(0)).square().mean(dim=3)
