"""MLA: Multimodal Representation Learning by Alternating Unimodal Adaptation (CVPR 2024).

There is no joint loss. On every batch the modalities take turns, in each of which one encoder and a head that all share
make a step on the loss of that modality alone; the head's step is projected, so as not to undo what the others wrote.

    turn of m   L_m = CE(W f^m + b, y);  encoder m and b: an ordinary step;  W: a step along G P, with G = dL_m/dW
    others      P = (I + sum_{k != m} h_k h_k' / alpha)^-1,  h_k: the mean feature of the batch in k's last turn
    recursive   P <- P - P h_m h_m' P / (alpha + h_m' P h_m), with m's own mean, from the second turn on

`others` is what the text promises: the change G P of the head hardly changes what it says of the others' means
(|P h_k| <= sqrt(alpha)). `recursive` is Eq. 5 on the means of batches: it forgets no mean, P only shrinks, and the head
freezes. In the public code the projection never runs, so what is published is `none` (`--variant official`).

    prediction  sum_m lambda_m z^m with lambda = softmax_m(-e_m), e_m the entropy of softmax(z^m), sample by sample

The public code takes the entropy over the batch, which makes a prediction depend on the other samples; not offered.

As the encoders are apart, no turn changes another one's features: all are encoded once, and only the head makes its
step in between. That equals M steps of the optimizer on the batch. One forward and one backward pass of each encoder.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.base import Method
from models.fusion import Shared
from models.multimodal import Output, clip_gradients
from utils.numbers import positive_float

PROJECTIONS = {"paper": "others", "official": "none"}


class MLA(Method):
    """Encoders by their own losses through one head, which the modalities train in turn."""

    takes_unimodal_loss = False
    columns = ("kept", "fusion_weight")  # |G P| / |G|; the mean lambda on the training batches

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=PROJECTIONS, default="paper",
            help="with the projection, or as the public code trains; the default of --projection follows from it",
        )  # fmt: skip
        group.add_argument(
            "--projection", choices=("others", "recursive", "none"),
            help="of the head's gradient: away from the other modalities' means (ours, after the paper's text), by all "
            "means so far (Eq. 5 on batches, which freezes the head), or none (what the public code runs)",
        )  # fmt: skip
        group.add_argument(
            "--alpha", type=positive_float, default=0.1, help="smaller projects more; public code: 0.1 to 0.01"
        )
        group.add_argument(
            "--turns", choices=("sequential", "together"), default="sequential",
            help="the head makes a step in each turn (paper), or one on the sum of the turns' gradients (ours)",
        )  # fmt: skip
        group.add_argument(
            "--test_fusion", choices=("entropy", "mean"), default="entropy",
            help="the prediction: logits weighted by their entropies (paper), or their mean",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return {"fusion": "shared", "projection": PROJECTIONS[args.variant]}

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        super().__init__(args, model)
        if not isinstance(model.fusion, Shared):
            raise ValueError("MLA trains one head for all modalities: leave --fusion away, or use shared")
        dim = model.fusion.head.in_features
        self.means = torch.zeros(len(model.modalities), dim)  # h_m; zero, which projects nothing, before m's first turn
        self.projector = torch.eye(dim if args.projection == "recursive" else 0)
        self.begun = False  # whether a turn has been made
        self._output: Output | None = None  # of the batch in training

    def on_fit_start(self, run) -> None:
        self.optimizer = run.optimizer

    def forward(self, batch) -> Output:
        output = super().forward(batch)
        if self.model.training:
            self._output = output
        elif self.args.test_fusion == "entropy":
            weights = entropy_weights(output.unimodal).unsqueeze(2)
            output.logits = (weights * torch.stack(list(output.unimodal.values()))).sum(dim=0)
        return output

    def losses(self, output) -> dict[str, Tensor]:
        own = {f"loss_{name}": self.cross_entropy(z, output.target) for name, z in output.unimodal.items()}
        return {"loss": sum(own.values()), "loss_joint": self.cross_entropy(output.logits, output.target)} | own

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Every modality's turn; the head's last step, or the only one, is left to the loop as the encoders' are."""
        output, self._output = self._output, None
        head, kept, waiting = [*self.model.fusion.head.parameters()], [], []
        features = [full_precision(feature) for feature in output.features.values()]
        means = torch.stack([feature.detach().mean(dim=0) for feature in features])
        self.means = means if self.args.turns == "together" else self.means.to(means, non_blocking=True)
        for turn, encoder in enumerate(self.model.encoders.values()):
            if turn and self.args.turns == "sequential":
                clip_gradients(self.model.parameters(), self.args.clip_norm)
                self.optimizer.step()  # of the head: nothing else has a gradient yet
                head[0].grad = head[1].grad = None
            trained = [p for p in encoder.parameters() if p.requires_grad]
            loss = self.cross_entropy(F.linear(features[turn], *head), output.target)
            *grads, weight_grad, bias_grad = torch.autograd.grad(loss, trained + head)
            waiting += zip(trained, grads, strict=True)
            projected = self.project(weight_grad, turn, means[turn])
            kept.append(projected.norm() / weight_grad.norm().clamp(min=torch.finfo(projected.dtype).tiny))
            for p, grad in zip(head, (projected, bias_grad), strict=True):
                p.grad = grad if p.grad is None else p.grad + grad
        for p, grad in waiting:
            p.grad = grad
        self.note("kept", torch.stack(kept))

    @torch.no_grad()
    def project(self, grad: Tensor, turn: int, mean: Tensor) -> Tensor:
        """G P (C, dim) of the head's gradient G in a modality's turn; `mean` (dim,) is that of its batch."""
        if self.args.projection == "others":
            others = torch.cat([self.means[:turn], self.means[turn + 1 :]])
            self.means = torch.cat([self.means[:turn], mean.unsqueeze(0), self.means[turn + 1 :]])
            return away_from(others, grad, self.args.alpha)
        if self.args.projection == "recursive":
            self.projector = self.projector.to(grad, non_blocking=True)
            if self.begun:
                seen = self.projector @ mean
                self.projector = self.projector - torch.outer(seen, seen) / (self.args.alpha + mean @ seen)
            self.begun = True
            return grad @ self.projector
        return grad

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        self.note("fusion_weight", entropy_weights(output.unimodal).mean(dim=1))

    def state_dict(self) -> dict:
        return super().state_dict() | {"means": self.means, "projector": self.projector, "begun": self.begun}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.means, self.projector, self.begun = state["means"], state["projector"], state["begun"]


def away_from(rows: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """G (I + A'A / alpha)^-1 = G - (G A') (alpha I + A A')^-1 A of `grad` G (C, dim) and `rows` A (K, dim)."""
    gram = rows @ rows.T + alpha * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    inverse, _ = torch.linalg.inv_ex(gram)  # which, unlike inv, does not have the host wait for an error
    return grad - (grad @ rows.T) @ inverse @ rows


def entropy_weights(unimodal: Mapping[str, Tensor]) -> Tensor:
    """(M, B) lambda: for every sample softmax over the modalities of minus the entropy of softmax(z^m)."""
    log_p = full_precision(torch.stack(list(unimodal.values()))).log_softmax(dim=2)
    return (log_p.exp() * log_p).sum(dim=2).softmax(dim=0)
