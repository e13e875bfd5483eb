"""AMCo: Adaptive Mask Co-optimization for Modal Dependence in Multimodal Learning (ICASSP 2023).

A model leans on the modality that is learned most easily. A growing share of that modality's features is masked in
training, so that the others must be fitted; losses of each modality alone keep every encoder learning.

    dependence  s_m = mean_i sum_c softmax([z_i^1; ...; z_i^M])_(m,c), z^m centred: one softmax over all M C logits
    mask rate   p = p_max sin(pi/2 min(1, t / T)) in epoch t, for m = argmax s if s_m > sigma; 0 for the others
    features    N = round(p d) entries of f_i^m, drawn anew for each sample, are 0, the others times d / (d - N)
    loss        CE(z, y) + sum_m CE(z^m, y), of the masked features

The paper could be read in its abstract alone, and no code of its authors was found: the rule is that of early versions
of BalanceBenchmark, with our repairs. There (`--variant benchmark`) p starts at 0 in each epoch and grows by the batch,
in nearly all batches to 1, which leaves nothing of the modality. One mask serves a batch. The score is that of the
masked features of the batch before: what has just been masked scores low, so every other batch goes unmasked. And it
is of logits that are not centred, in which a constant that changes no prediction decides. BalanceBenchmark's newest
version masks classes of the logits instead, and does not run on one GPU; it is not offered.

One forward and one backward pass a step; the unimodal read-out is computed a second time. Evaluation masks nothing.
"""

import math

import torch
from torch import Tensor

from inforeg.scores import full_precision
from methods.modulation import Modulation
from utils.numbers import positive, probability

VARIANTS = {
    "paper": dict(mask_schedule="epoch", mask_end=0.9, mask="sample", decide="now"),
    "benchmark": dict(mask_schedule="batch", mask_end=1.0, mask="batch", decide="last", sigma=0.5),
}
EPSILON, GROWTH = 0.3, 0.1  # of BalanceBenchmark's schedule: p is 1 once GROWTH * epoch * batch has reached EPSILON


class AMCo(Modulation):
    """Joint training with unimodal losses, in which features of the modality that is leaned on are masked."""

    takes_unimodal_loss = False
    columns = ("score", "mask_rate")

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="our form of the rule, or BalanceBenchmark's; the next flags follow from it",
        )  # fmt: skip
        group.add_argument(
            "--mask_schedule", choices=("epoch", "batch"),
            help="the mask rate grows over --mask_epochs (ours), or anew within each epoch (BalanceBenchmark)",
        )  # fmt: skip
        group.add_argument("--mask_epochs", type=positive, default=30, help="T of --mask_schedule epoch; ours")
        group.add_argument(
            "--mask_end", type=probability,
            help="p_max; 0.9: ours, so that the modality always learns; BalanceBenchmark: 1",
        )  # fmt: skip
        group.add_argument(
            "--mask", choices=("sample", "bernoulli", "batch"),
            help="a share of each sample's entries, exactly (ours) or by independent draws, or one mask for the batch "
            "(BalanceBenchmark)",
        )  # fmt: skip
        group.add_argument(
            "--decide", choices=("now", "last"),
            help="who is masked: by unmasked features of this batch, logits centred (ours), or by the last batch as it "
            "was masked (BalanceBenchmark)",
        )  # fmt: skip
        group.add_argument(
            "--sigma", type=probability, help="smallest score that is masked; 1 / M: ours; BalanceBenchmark: 0.5"
        )
        group.add_argument(
            "--co_optimise", choices=("masked", "unmasked"), default="masked",
            help="the features that the unimodal losses see; BalanceBenchmark: masked, the paper's were not seen",
        )  # fmt: skip
        group.add_argument(
            "--readout", choices=("split", "heads"), default="split",
            help="the unimodal logits: of the fusion head (BalanceBenchmark), or of classifiers of their own",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant]

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    @property
    def _unimodal_loss(self) -> str:
        return self.args.readout  # its own losses are those of --unimodal_loss

    def __init__(self, args, model):
        super().__init__(args, model)
        self.sigma = 1 / len(model.modalities) if args.sigma is None else args.sigma
        self.steps = 0  # of this epoch
        self.leaned_on = torch.zeros(len(model.modalities), dtype=torch.bool)  # in the last batch, for --decide last
        self._whole: dict[str, Tensor] = {}  # z^m (B, C) of the batch's unmasked features

    def on_epoch_start(self, run) -> None:
        self.steps = 0
        self.leaned_on = torch.zeros_like(self.leaned_on, device=next(self.model.parameters()).device)

    @property
    def rate(self) -> float:
        """p, the share of the features to mask in this step."""
        if self.args.mask_schedule == "epoch":
            grown = self.epoch / self.args.mask_epochs
        else:
            grown = GROWTH * self.epoch * self.steps / EPSILON
        return self.args.mask_end * math.sin(math.pi / 2 * min(1.0, grown))

    def forward(self, batch):
        output = super().forward(batch)
        if self.model.training and self.args.co_optimise == "unmasked":
            output.unimodal, self._whole = self._whole, {}
        return output

    def modulate(self, features, batch):
        if self.args.co_optimise == "unmasked":
            self._whole = self.model.unimodal(features)
        if self.args.decide == "now":
            with torch.no_grad():
                self.judge(self._whole or self.model.unimodal(features))
        rate, chosen = self.rate, self.gated(self.leaned_on, neutral=False)
        self.note("mask_rate", rate * chosen)
        if not rate:  # nothing is drawn
            return features, batch.target
        masked = dict(features)
        for place, (name, feature) in enumerate(features.items()):
            if self.in_force(name):
                factor = torch.where(chosen[place], scaled_mask(feature, rate, self.args.mask), 1.0)
                masked[name] = feature * factor.to(feature.dtype)
        return masked, batch.target

    @torch.no_grad()
    def judge(self, unimodal: dict[str, Tensor]) -> None:
        """Find the modality that is leaned on by unimodal logits {modality: (B, C)}."""
        score = dependence(unimodal, centred=self.args.decide == "now")
        places = torch.arange(len(score), device=score.device)
        self.leaned_on = (places == score.argmax()) & (score > self.sigma)
        self.note("score", score)

    def after_backward(self, output) -> None:
        super().after_backward(output)
        self.steps += 1
        if self.args.decide == "last":
            self.judge(output.unimodal)

    def state_dict(self) -> dict:
        return super().state_dict() | {"steps": self.steps, "leaned_on": self.leaned_on}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.steps, self.leaned_on = state["steps"], state["leaned_on"]


def dependence(unimodal: dict[str, Tensor], centred: bool = True) -> Tensor:
    """(M,) the share of each modality's logits {modality: (B, C)} in one softmax over all; it sums to 1."""
    logits = full_precision(torch.stack(list(unimodal.values()), dim=1))
    if centred:
        logits = logits - logits.mean(dim=2, keepdim=True)
    return logits.flatten(1).softmax(dim=1).unflatten(1, logits.shape[1:]).sum(dim=2).mean(dim=0).clamp(max=1)


def scaled_mask(feature: Tensor, rate: float, kind: str) -> Tensor:
    """(B or 1, dim) zeros in a share `rate` of the entries, drawn at random, and a factor above 1 in the others."""
    size, dim = feature.shape
    draws = torch.rand(1 if kind == "batch" else size, dim, device=feature.device)
    if kind == "bernoulli":
        kept, scale = draws >= rate, 1 / max(1 - rate, 1e-9)
    elif kind == "sample":
        zeros = min(round(rate * dim), dim - (rate < 1))  # a rate below 1 leaves an entry
        kept, scale = draws.argsort(dim=1) >= zeros, dim / max(dim - zeros, 1)
    else:
        kept, scale = draws.argsort(dim=1) >= int(rate * dim), 1 / (1 - rate) if rate <= 0.9 else 10.0
    return full_precision(kept.to(feature.dtype)) * scale
