"""AUG: Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability Disproportion
(NeurIPS 2025).

There is no joint loss. Every modality is classified by an ensemble of its own, all of whose members read their own
layer of the feature and share the last layer with those of all modalities. A modality that lags behind gets one more
member, which is boosted:

    logits of the n members  z_j = W relu(V_j f^m + c_j) + b,  Z = sum_j z_j,  Z' = Z - z_n,  q_i = softmax(Z'_i)_y
    loss of m, n = 1         CE(Z, y)
    loss of m, n > 1         CE(Z, y) + CE(Z', y) + mean_i (1 - lambda q_i) CE(z_n,i, y_i), with q a constant

The last term is the cross entropy with what the others leave of the label, y - lambda y q: no other class enters it.
The paper sums probabilities; its public code sums logits, and so does this one, since a sum of probabilities above 1
is no argument of a cross entropy.

    confidence s_m    the mean over the epoch's samples of softmax(Z)_y
    every E epochs    if max s - sigma min s > tau, the weakest modality gets one more member

before the next epoch, so that an epoch is evaluated by what it has trained. The prediction is the mean of the
modalities' Z. Algorithm 1 prints the rule once with the modalities exchanged; text and public code have it as here.

In the public code added members are made after the optimizer and never trained, confidences are compared by their
ratio, and also after the first epoch (`--variant official`). It makes a step on each modality's loss in turn, and
predicts by 0.4 and 0.6 of the modalities; here, as in Algorithm 1, a step is on the sum.

One forward and one backward pass a step. All members are made before the first step; those not yet in use have no
gradient, and stay as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import confidence, full_precision
from methods.base import Method
from models.fusion import Boosted
from models.multimodal import Output
from utils.numbers import not_negative, positive, probability

VARIANTS = {"paper": dict(added="trained", gap="difference"), "official": dict(added="random", gap="ratio")}


class AUG(Method):
    """A boosted ensemble for each modality; the weakest one's grows."""

    takes_unimodal_loss = False

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's rules, or the public code's, which also compares after the first epoch; the next two "
            "flags follow from it",
        )  # fmt: skip
        group.add_argument(
            "--added", choices=("trained", "random"),
            help="whether added classifiers learn (paper) or stay as they begin (public code)",
        )  # fmt: skip
        group.add_argument(
            "--gap", choices=("difference", "ratio"),
            help="of the largest confidence and the least: their difference (paper) or ratio (public code)",
        )  # fmt: skip
        group.add_argument(
            "--lam", type=probability, default=0.5, help="lambda of the residual; public code for CREMA-D"
        )
        group.add_argument("--sigma", type=not_negative, default=1.0, help="of the least confidence; paper")
        group.add_argument("--tau", type=not_negative, default=0.01, help="gap that adds a classifier; paper")
        group.add_argument(
            "--assign_every", type=positive, metavar="EPOCHS",
            help="E; a tenth of --epochs: public code, and with its 200 epochs the paper's 20 for CREMA-D",
        )  # fmt: skip
        group.add_argument(
            "--max_classifiers", type=positive, default=11, help="of a modality; the most that the public code can use"
        )

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant] | {"fusion": "boosted", "assign_every": max(1, args.epochs // 10)}

    def __init__(self, args, model):
        super().__init__(args, model)
        if not isinstance(model.fusion, Boosted):
            raise ValueError("AUG adds classifiers that share a last layer: leave --fusion away, or use boosted")
        model.fusion.reserve(args.max_classifiers, trained=args.added == "trained")
        self.weakest: int | None = None  # the number of the modality that gets a classifier before the next epoch
        self._sums: Tensor | float = 0.0  # (M,) of the true class's probabilities, of the samples that this epoch has
        self._seen = 0
        self._members: dict[str, Tensor] = {}  # z_j (n, B, C) of the batch in training

    def on_epoch_start(self, run) -> None:
        if self.weakest is not None:
            self.model.fusion.use_another(self.weakest)
        self.weakest, self._sums, self._seen = None, 0.0, 0

    def forward(self, batch) -> Output:
        if not self.model.training:
            return super().forward(batch)
        features = self.model.encode(batch.inputs)
        self._members = self.model.fusion.classify(features)
        unimodal = {name: members.sum(dim=0) for name, members in self._members.items()}
        return Output(torch.stack(list(unimodal.values())).mean(dim=0), unimodal, features, batch.target)

    def losses(self, output) -> dict[str, Tensor]:
        own = {f"loss_{name}": self.boosted(z, output.target) for name, z in self._members.items()}
        return {"loss": sum(own.values()), "loss_joint": F.cross_entropy(output.logits, output.target)} | own

    def boosted(self, members: Tensor, target: Tensor) -> Tensor:
        """The loss of one modality from its members' logits (n, B, C)."""
        members = full_precision(members)
        loss = F.cross_entropy(members.sum(dim=0), target)
        if len(members) == 1:
            return loss
        before = members[:-1].sum(dim=0)
        known = before.detach().softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
        last = F.cross_entropy(members[-1], target, reduction="none")
        return loss + F.cross_entropy(before, target) + ((1 - self.args.lam * known) * last).mean()

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        self._sums = self._sums + confidence(output.unimodal, output.target)
        self._seen += len(output.target)

    def on_epoch_end(self, run) -> dict:
        names, used = self.model.modalities, list(self.model.fusion.used)
        scores = (self._sums / self._seen).tolist()
        trained = self.epoch + 1  # epochs, this one included
        if trained % self.args.assign_every == 0 or trained == 1 and self.args.variant == "official":
            self.weakest = self.lagging(scores)
        metrics = {"confidence": scores, "classifiers": used}
        metrics = {column: dict(zip(names, values, strict=True)) for column, values in metrics.items()}
        return super().on_epoch_end(run) | metrics

    def lagging(self, scores: list[float]) -> int | None:
        """The number of the modality that gets one more classifier by the confidences; None: no one."""
        weakest = min(range(len(scores)), key=scores.__getitem__)
        if len(scores) == 1 or self.model.fusion.used[weakest] == self.args.max_classifiers:
            return None
        least = scores[weakest]
        unit = least if self.args.gap == "ratio" else 1
        return weakest if max(scores) - self.args.sigma * least > self.args.tau * unit else None

    def state_dict(self) -> dict:
        return super().state_dict() | {"weakest": self.weakest, "sums": self._sums, "seen": self._seen}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.weakest, self._sums, self._seen = state["weakest"], state["sums"], state["seen"]
