"""MMCSAL: Enhancing Modality Representation and Alignment for Multimodal Cold-start Active Learning (ACM MM Asia 2024).

This is its first stage, which trains the encoders without labels and makes the features by which samples are chosen to
be labelled; selection/ has the second.

Each modality has a projector g_m, and z^m = g_m(f^m) / ||g_m(f^m)||. A loss matches the modalities of a sample, another
one keeps what is alike within a modality together:

    L       = L_cm + lambda mean_m L_uni^m
    L_cm    = -1/(2B) sum_i [ log softmax_k(z_i^a . z_k^v / t)_i + log softmax_k(z_k^a . z_i^v / t)_i ]
    L_uni^m = -1/B sum_i log softmax_k(z_i^m . c_k^m / t_p)_q(i, m)

L_cm is the mean over all pairs of modalities (for M > 2 ours), k over the batch. The prototypes c_k^m are the K centres
of k-means among the z^m of the whole training split, as unit vectors, and q(i, m) is the cluster of sample i. They are
made anew after every epoch, once a fifth of the epochs is over; before, L_uni is left out.

The paper's text and code were not to be had: its abstract and summaries have the two losses, their sum and the
temperature; the projectors, K, lambda, t_p and when prototypes are made are reconstructed. Where modalities are matched
alone, their features may lie apart as a whole; that gap is recorded.

No label is read. The classifier is never trained, so the accuracies of such a run mean nothing.

One forward and one backward pass a step; after every epoch one more forward pass over the training split.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from dataset.base import below
from dataset.loader import mix
from inforeg.scores import full_precision
from methods.base import Method
from methods.lfm import infonce
from methods.modulation import need_two
from models.encoders import initialise
from utils.numbers import count, fraction, not_negative, positive, positive_float
from utils.precision import autocast


class MMCSAL(Method):
    """A cross-modal loss and one by prototypes of each modality, neither of which knows labels."""

    classifies = False
    takes_unimodal_loss = False

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--temperature", type=positive_float, default=0.07, help="t; ours: the paper's was not seen")
        group.add_argument(
            "--prototypes", type=count, metavar="K",
            help="of each modality; 0: none, the modalities are matched alone; by default two for each class; ours",
        )  # fmt: skip
        group.add_argument("--prototype_weight", type=not_negative, default=1.0, help="lambda; ours")
        group.add_argument("--prototype_temperature", type=positive_float, default=0.2, help="t_p; ours")
        group.add_argument(
            "--prototype_start", type=fraction, default=0.2, help="share of the epochs before there are any; ours"
        )
        group.add_argument("--projection", type=positive, default=128, metavar="DIM", help="numbers in z; ours")

    def __init__(self, args, model):
        need_two(self, model)
        if args.val_fraction or args.patience:
            raise ValueError(
                "mmcsal reads no label, and --val_fraction and --patience choose by accuracies: leave them away"
            )
        super().__init__(args, model)
        self.count = 2 * model.classes if args.prototypes is None else args.prototypes
        projectors = {
            name: nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, args.projection))
            for name, dim in model.dims.items()
        }
        model.projectors = nn.ModuleDict(projectors).apply(initialise)
        self.prototypes: dict[str, Tensor] = {}  # of this epoch (K, dim); {} without
        self.assigned: dict[str, Tensor] = {}  # (N,) the prototype of each sample of the data set that is read
        self.index: Tensor | None = None  # (B,) the samples of this step

    def bound_to(self, epochs: int) -> str | None:
        return "its prototypes begin after a share of its epochs" if self.count else None

    def embed(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z (B, dim) of each modality."""
        projected = {name: layer(features[name]) for name, layer in self.model.projectors.items()}
        return {name: F.normalize(full_precision(x)) for name, x in projected.items()}

    def modulate(self, features, batch):
        self.index = batch.index
        return features, batch.target

    def losses(self, output) -> dict[str, Tensor]:
        z = self.embed(output.features)
        terms = [infonce(a, b, self.args.temperature) for a, b in combinations(z.values(), 2)]
        losses = {"loss": sum(terms) / len(terms)}
        losses["loss_matching"] = losses["loss"]
        if self.prototypes:
            t = self.args.prototype_temperature
            terms = [near(x, self.prototypes[name], self.assigned[name][self.index], t) for name, x in z.items()]
            losses["loss_prototypes"] = sum(terms) / len(terms)
            losses["loss"] = losses["loss"] + self.args.prototype_weight * losses["loss_prototypes"]
        return losses

    def on_epoch_end(self, run) -> dict:
        with autocast(run.device, run.args.precision):
            seen = run.collect(
                run.train, lambda batch: self.embed(self.model.encode(batch.inputs)) | {"index": batch.index}
            )
        at = seen.pop("index")
        if self.count and run.epoch + 1 >= math.ceil(self.args.prototype_start * self.args.epochs):
            for name, z in seen.items():
                self.prototypes[name], self.assigned[name] = self.cluster(run, z, at)
        centres = {name: z.double().mean(dim=0) for name, z in seen.items()}
        return super().on_epoch_end(run) | {"modality_gap": gaps(centres)}

    def cluster(self, run, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes of samples z (n, dim), and the number of each one's; `at` (n,) says which samples these are."""
        from selection.clusters import clustered  # here, since scikit-learn takes seconds to load

        centres, cluster = clustered(z.numpy(), min(self.count, len(z)), mix(run.args.seed, run.epoch))
        assigned = torch.zeros(len(below(run.train)[0]), dtype=torch.long)
        assigned[at] = torch.from_numpy(cluster).long()
        return F.normalize(torch.from_numpy(centres)).to(run.device), assigned.to(run.device)

    def state_dict(self) -> dict:
        state = {"prototypes": dict(self.prototypes), "assigned": dict(self.assigned)}
        return super().state_dict() | state

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.prototypes, self.assigned = dict(state["prototypes"]), dict(state["assigned"])


def near(z: Tensor, prototypes: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """L_uni of z (B, dim), whose own prototypes are those with the numbers `assigned` (B,)."""
    with torch.autocast(z.device.type, enabled=False):  # the temperature magnifies what bfloat16 rounds away
        return F.cross_entropy(z @ prototypes.T / temperature, assigned)


def gaps(centres: Mapping[str, Tensor]) -> dict[str, float]:
    """{modality: mean distance of the centre of its z to those of the others}."""
    return {
        name: sum((centre - other).norm().item() for other in centres.values()) / (len(centres) - 1)
        for name, centre in centres.items()
    }
