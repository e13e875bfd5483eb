"""G2D: Boosting Multimodal Learning with Gradient-Guided Distillation (ICCV 2025).

Unimodal teachers, trained before, guide the joint model: their logits t^m the fused ones, their features f_T^m those of
the encoders.

    L = CE(z, y) + sum_m [ a T^2 KL(softmax(t^m / T) || softmax(z / T)) + b ||f^m - f_T^m||^2 ]

with the mean over the batch in the second term and over all entries in the third, as in the public code (the paper's
formula sums the latter, which is another b). Sequential modality prioritisation: in the first epochs the encoders of
the modalities whose teachers are surer of the batch (sum of the true class's probability) get no gradient, and the
weakest modality learns undisturbed. The public code has two modalities; with M of them those epochs are cut into M - 1
equal parts, and with each the next stronger modality joins in.

The public code zeroes the gradients of convolutions alone, so that the batch normalisation of a held encoder goes on
learning (`--hold convolutions`), and it stops where two teachers are equally sure: here both learn. Momentum and weight
decay act on what is held, in both.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import confidence, full_precision
from methods.modulation import Modulation
from methods.teachers import Taught
from utils.numbers import count, not_negative, positive_float

HELD = ("encoder", "convolutions")


class G2D(Taught, Modulation):
    """One forward and one backward pass of the model and one forward pass of every teacher a step."""

    takes_unimodal_loss = False
    columns = ("learning",)  # the share of the epoch's steps in which the encoder was not held

    @classmethod
    def add_args(cls, group) -> None:
        cls.add_teachers(group)
        group.add_argument("--temperature", type=positive_float, default=1.0, help="T of the logits; public code: 1")
        group.add_argument("--logit_weight", type=not_negative, default=1.0, help="a, of each KL term; public code: 1")
        group.add_argument(
            "--feature_weight", type=not_negative, default=1.0, help="b, of each feature term; public code: 1"
        )
        group.add_argument(
            "--priority_epochs", type=count,
            help="epochs in which the weaker modalities learn alone; half of --epochs: public code (150 of 300)",
        )  # fmt: skip
        group.add_argument(
            "--hold", choices=HELD, default="encoder",
            help="what of a stronger modality's encoder gets no gradient: all of it, or its convolutions (public code)",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return super().defaults(args) | {"priority_epochs": args.epochs // 2}

    def __init__(self, args, model):
        super().__init__(args, model)
        without = [name for name, encoder in model.encoders.items() if all(p.ndim < 4 for p in encoder.parameters())]
        if args.hold == "convolutions" and without:
            raise ValueError(f"--hold convolutions: the encoder of {', '.join(without)} has none; use --hold encoder")

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        student = F.log_softmax(full_precision(output.logits) / self.args.temperature, dim=1)
        for name, (feature, logits) in self._taught.items():
            soft = F.log_softmax(full_precision(logits) / self.args.temperature, dim=1)
            divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True) * self.args.temperature**2
            distance = F.mse_loss(output.features[name], feature)
            losses[f"loss_{name}"] = self.args.logit_weight * divergence + self.args.feature_weight * distance
            losses["loss"] = losses["loss"] + losses[f"loss_{name}"]
        return losses

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        learning = self.learning(output.target)
        for factor, encoder in zip(learning, self.model.encoders.values(), strict=True):
            if grads := self._held(encoder):
                torch._foreach_mul_(grads, factor)
        self.note("learning", learning)

    def learning(self, target: Tensor) -> Tensor:
        """(M,) 1 for each modality that learns from this batch, 0 for one that is held."""
        sure = confidence({name: logits for name, (_, logits) in self._taught.items()}, target)
        weaker = (sure < sure.unsqueeze(1)).sum(dim=1)  # how many are less sure
        epoch, last = self.epoch, self.args.priority_epochs
        allowed = epoch * (len(sure) - 1) // last if epoch < last else len(sure)
        return self.gated((weaker <= allowed).to(sure.dtype), neutral=1)

    def _held(self, encoder: nn.Module) -> list[Tensor]:
        everything = self.args.hold == "encoder"
        return [p.grad for p in encoder.parameters() if p.grad is not None and (everything or p.ndim >= 4)]
