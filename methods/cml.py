"""CML: Calibrating Multimodal Learning (ICML 2023).

A classifier should not grow surer when a modality is taken away from it. Every sample on which a subset T of the
modalities S is surer than S is penalised, by how much surer it is:

    Conf(z) = max_c softmax(z)_c
    L       = CE(z, y) + lambda sum_(T,S) mean_i max(0, Conf(z_i^T) - Conf(z_i^S))

z^T are the logits with the features of the modalities outside T set to zero. By default S holds all modalities and T
all but one, each in turn. The public code (`--variant official`; written for CPM-Nets and MIWAE on multi-view data)
draws for every sample an order in which modalities are taken away one after the other, compares neighbours in this
chain, trains the classification of every partial input too, sums the hinges over the batch, and leaves a pair alone
where T is right and S wrong. BalanceBenchmark's version (`--variant benchmark`) takes the hinge of the batch's summed
differences, in which samples cancel one another: it is zero nearly always, and one order serves an epoch.

One forward and one backward pass of the encoders a step; one more of the fusion for every pair.
"""

import torch
from torch import Tensor

from dataset.loader import mix
from inforeg.scores import full_precision
from methods.base import Method
from methods.modulation import need_two
from utils.numbers import not_negative

VARIANTS = {
    "paper": dict(subsets="leave_one_out", hinge="sample", gate="none", partial_loss=0.0, calibration_weight=1.0),
    "official": dict(subsets="chain", hinge="sum", gate="exempt", partial_loss=1.0, calibration_weight=0.1),
    "benchmark": dict(subsets="epoch", hinge="batch", gate="none", partial_loss=1.0, calibration_weight=0.1),
}


class CML(Method):
    """Joint training with a penalty on every sample that is classified more surely with a modality less."""

    columns = ("violation",)  # the share of the pairs in which the modality's removal raised the confidence

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's formula, the public code's rules or BalanceBenchmark's; the next flags follow from it",
        )  # fmt: skip
        group.add_argument(
            "--calibration_weight", type=not_negative,
            help="lambda; 1: ours, the paper's was not seen; public code's README and BalanceBenchmark: 0.1 of a sum",
        )  # fmt: skip
        group.add_argument(
            "--subsets", choices=("leave_one_out", "chain", "epoch"),
            help="all modalities against all but one (ours, of the paper's pairs), a sample's chain in an order of its "
            "own (public code), or in one order for an epoch (BalanceBenchmark)",
        )  # fmt: skip
        group.add_argument(
            "--hinge", choices=("sample", "sum", "batch"),
            help="the mean of the samples' hinges (paper), their sum (public code), or the hinge of the summed "
            "differences (BalanceBenchmark)",
        )  # fmt: skip
        group.add_argument(
            "--gate", choices=("none", "exempt", "right"),
            help="every pair counts (paper), but those where T is right and S wrong (public code, CPM-Nets), or those "
            "where S is right (public code, MIWAE)",
        )  # fmt: skip
        group.add_argument(
            "--partial_loss", type=not_negative,
            help="weight of a partial input's cross entropy in the mean of all; paper 0, public code 1",
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
        self._partial: list[Tensor] = []  # z^T (B, C) of the K pairs of the last batch

    def forward(self, batch):
        output = super().forward(batch)
        if self.model.training:
            removed, absent = self.removals(output.target)
            self._partial = [self.model.fuse(keep(output.features, gone)) for gone in absent]
            risen = removed & (self.compare(output)[0] > 0).unsqueeze(1)
            self.note("violation", risen.sum(dim=(0, 2)) / removed.sum(dim=(0, 2)).clamp(min=1))
        return output

    def removals(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """(K, M, B) for K pairs of subsets of each sample: whom T lacks beside S, and whom T lacks in all."""
        count, size = len(self.model.modalities), len(target)
        if self.args.subsets == "leave_one_out":
            removed = torch.eye(count, dtype=torch.bool, device=target.device).unsqueeze(2).expand(-1, -1, size)
            return removed, removed
        if self.args.subsets == "chain":
            place = torch.rand(count, size, device=target.device).argsort(dim=0)
        else:
            draws = torch.Generator().manual_seed(mix(self.args.seed, self.epoch, -2))
            order = torch.randperm(count, generator=draws).tolist()
            place = torch.stack([torch.full_like(target, k) for k in order])
        pairs = torch.arange(count - 1, device=target.device).view(-1, 1, 1)
        return place == pairs, place <= pairs

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        if weight := self.args.partial_loss:
            partial = [self.cross_entropy(logits, output.target) for logits in self._partial]
            losses["loss_partial"] = sum(partial) / len(partial)
            # So that the joint loss becomes (CE(z) + weight sum_T CE(z^T)) / (1 + weight K).
            share = weight * len(partial) / (1 + weight * len(partial))
            losses["loss"] = losses["loss"] + share * (losses["loss_partial"] - losses["loss_joint"])
        losses["loss_calibration"] = self.args.calibration_weight * self.calibration(output)
        losses["loss"] = losses["loss"] + losses["loss_calibration"]
        return losses

    def compare(self, output) -> tuple[Tensor, Tensor, Tensor]:
        """(K, B) each, of the pairs: Conf(z^T) - Conf(z^S), whether T is right, whether S is (one row if it is all)."""
        logits = full_precision(torch.stack([output.logits, *self._partial]))
        sure, chosen = logits.softmax(dim=2).max(dim=2)
        right = chosen == output.target
        larger = slice(0, 1) if self.args.subsets == "leave_one_out" else slice(0, -1)
        return sure[1:] - sure[larger], right[1:], right[larger]

    def calibration(self, output) -> Tensor:
        """The penalty by `--hinge` and `--gate`, without its weight."""
        rise, small_right, large_right = self.compare(output)
        if self.args.hinge == "batch":
            return rise.sum(dim=1).relu().sum()
        hinges = rise.relu()
        if self.args.gate == "exempt":
            hinges = hinges * ~(small_right & ~large_right)
        elif self.args.gate == "right":
            hinges = hinges * large_right
        return hinges.sum() if self.args.hinge == "sum" else hinges.mean(dim=1).sum()


def keep(features: dict[str, Tensor], gone: Tensor) -> dict[str, Tensor]:
    """The features {modality: (B, dim)} with zeros for the samples of each modality that are `gone` (M, B)."""
    masks = gone.unsqueeze(2)
    return {name: torch.where(mask, 0.0, f) for (name, f), mask in zip(features.items(), masks, strict=True)}
