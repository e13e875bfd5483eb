"""PMR: Prototypical Modal Rebalance for Multimodal Learning (CVPR 2023).

The slower modality is given a loss of its own, which pulls its features towards the prototypes of their classes:

    prototype   c_k^m = mean of f^m over the samples of class k in a random share of the training split, once per epoch
                and in evaluation mode; c <- eps c_old + (1 - eps) c_new
    posterior   pi_k^m = softmax_k(-||f^m - c_k^m||), the distance not squared
    score       s_m = sum_i pi^m_{y_i}
    PCE         L_p^m = mean_i -log pi^m_{y_i}
    loss        CE(z, y) + alpha sum_m b_m L_p^m,  b_m = clip(max_k s_k / s_m - 1, 0, 1)
    PER         - mu a_m H(pi^m) for the fastest m, a_m = clip(s_m / mean of the others' s - 1, 0, 1)

PER, in the first epochs only, keeps the fastest from settling early; H is the mean entropy over the batch. For two
modalities these are the paper's equations (rho, beta, gamma). Prototypes, scores and coefficients are constants to the
gradient, so that L_p^m reaches encoder m and nothing else.

The public code has a hard switch in place of b_m (1 for a modality behind, else 0; `--coefficient switch`), no PER, and
momentum eps = 0 in the authors' commands. It computes the first prototypes a second time without momentum; here the
momentum holds from the second epoch on.

Any fusion. One forward and one backward pass a step; one forward pass of the encoders over the share per epoch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from dataset.loader import mix
from inforeg.scores import full_precision
from methods.modulation import Modulation, ratio_to_others
from utils.numbers import count, fraction, not_negative, share


def log_posterior(feature: Tensor, prototypes: Tensor) -> Tensor:
    """(B, C) log pi of (B, dim) features; in full precision under autocast, too."""
    squares = (full_precision(feature).unsqueeze(1) - prototypes).square().sum(dim=2)
    # The root alone has an infinite slope where a feature meets its prototype.
    return (-(squares + 1e-12).sqrt()).log_softmax(dim=1)


def updated(old: Tensor | None, feature: Tensor, target: Tensor, classes: int, momentum: float) -> Tensor:
    """(C, dim) prototypes after the epoch's features. A class without a sample keeps its old prototype.

    If it never had one, the mean of all features stands in for it: a prototype that favours no class.
    """
    member = F.one_hot(target, classes).to(feature.dtype)
    size = member.sum(dim=0).unsqueeze(1)
    new = member.T @ feature / size.clamp(min=1)
    if old is None:
        return torch.where(size > 0, new, feature.mean(dim=0))
    return torch.where(size > 0, momentum * old + (1 - momentum) * new, old)


class PMR(Modulation):
    """Prototype losses beside the joint one."""

    columns = ("prototype_score", "prototype_loss", "coefficient", "entropy_weight")

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--alpha", type=not_negative, default=1.0, help="of the prototype loss; paper: 1 or 2")
        group.add_argument(
            "--coefficient", choices=("clip", "switch"), default="clip",
            help="by how far a modality is behind (paper), or 1 as soon as it is (public code)",
        )  # fmt: skip
        group.add_argument("--mu", type=not_negative, default=0.01, help="of the entropy; paper: 0.01 or 0.001")
        group.add_argument(
            "--per_epochs", type=count, default=10, help="first epochs with the entropy; ours; public code: 0"
        )
        group.add_argument(
            "--prototype_share", type=share, default=0.1, help="share of the training split they are means of; paper"
        )
        group.add_argument(
            "--prototype_momentum", type=fraction, default=0.0, help="eps; 0: the commands in the public code"
        )
        cls.add_epochs(group, 0, 100, "public code")

    def __init__(self, args, model):
        super().__init__(args, model)
        self.prototypes: dict[str, Tensor] = {}

    def on_epoch_start(self, run) -> None:
        if not self.in_epochs():
            return
        data = self.train_data(run)
        # A generator of its own, so that a resumed run draws the same share and no other draw is moved.
        draws = torch.Generator().manual_seed(mix(run.args.seed, run.epoch, -2))
        size = max(1, round(self.args.prototype_share * len(data)))
        chosen = Subset(data, torch.randperm(len(data), generator=draws)[:size].tolist())
        features = run.collect(chosen, lambda batch: {"target": batch.target, **self.model.encode(batch.inputs)})
        for name in self.model.modalities:
            old = self.prototypes[name].cpu() if name in self.prototypes else None
            new = updated(old, features[name], features["target"], self.model.classes, self.args.prototype_momentum)
            self.prototypes[name] = new.to(run.device)

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        if not self.in_epochs():
            return losses
        log_p = torch.stack([log_posterior(output.features[m], self.prototypes[m]) for m in self.model.modalities])
        true = log_p.gather(2, output.target.expand(len(log_p), -1).unsqueeze(2)).squeeze(2)
        score, prototype_loss = true.detach().exp().sum(dim=1), -true.mean(dim=1)
        behind = self.gated(self._coefficients(score), neutral=0)
        losses["loss"] = losses["loss"] + self.args.alpha * (behind * prototype_loss).sum()
        self.note("prototype_score", score / len(output.target))
        self.note("prototype_loss", prototype_loss)
        self.note("coefficient", behind)
        if self.epoch < self.args.per_epochs:
            ahead = (ratio_to_others(score) - 1).clamp(0, 1)
            ahead = self.gated(torch.where(score == score.max(), ahead, 0.0), neutral=0)
            entropy = -(log_p.exp() * log_p).sum(dim=2).mean(dim=1)
            losses["loss"] = losses["loss"] - self.args.mu * (ahead * entropy).sum()
            self.note("entropy_weight", ahead)
        return losses

    def _coefficients(self, score: Tensor) -> Tensor:
        """(M,) b_m of the scores."""
        best = score.max()
        if self.args.coefficient == "switch":
            return (score < best).to(score.dtype)
        return (best / score.clamp(min=torch.finfo(score.dtype).tiny) - 1).clamp(0, 1)

    def state_dict(self) -> dict:
        return super().state_dict() | {"prototypes": dict(self.prototypes)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.prototypes = dict(state["prototypes"])
