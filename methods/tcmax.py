"""TCMax: Multimodal Classification via Total Correlation Maximization (ICLR 2026).

The model is trained to maximise the total correlation of all modalities' features and the label: the logits of a true
sample against those of all samples that the batch's modalities can be recombined to, over all classes:

    Z_{j1..jM} = f(x^1_{j1}, ..., x^M_{jM})
    L = -mean_i log( exp Z_{i..i, y_i} / sum_{j1..jM, c} exp Z_{j1..jM, c} ) - log(B^M C)

Under an additive fusion Z = sum_m z^m, and the sum over B^M recombinations is a product of M sums over B:

    log sum_{j1..jM, c} exp Z = logsumexp_c sum_m logsumexp_j z^m_{j,c}

Other fusions read all B^M recombinations. The constant makes L zero for constant logits, and negative where the
correlation is found; the public code subtracts log B only, which trains the same. It also forms all B^2 sums of logits,
and exponentiates them without a maximum taken off.

Where logits spread over the batch the sum is that of its few largest recombinations, and so is the gradient: it wants a
smaller step than the mean of B cross entropies (docs/METHODS.md).
"""

import math

import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.base import Method
from models.fusion import Concat, Sum


class TCMax(Method):
    """One forward and one backward pass a step; no flag, no weight of its own. Prediction is the joint model's."""

    takes_unimodal_loss = False  # the total correlation holds the unimodal objectives already

    def losses(self, output) -> dict[str, Tensor]:
        if isinstance(self.model.fusion, Concat | Sum):
            partition = log_partition({name: full_precision(z) for name, z in output.unimodal.items()})
        else:
            partition = full_precision(self.model.fuse(recombine(output.features))).flatten().logsumexp(dim=0)
        true = full_precision(output.logits).gather(1, output.target.unsqueeze(1)).mean()
        size, classes = output.logits.shape
        constant = len(output.features) * math.log(size) + math.log(classes)
        joint = F.cross_entropy(output.logits, output.target)
        return {"loss": partition - true - constant, "loss_joint": joint}


def log_partition(unimodal: dict[str, Tensor]) -> Tensor:
    """log of the sum of exp Z over all recombinations and classes, from additive logits {modality: (B, C)}."""
    return sum(z.logsumexp(dim=0) for z in unimodal.values()).logsumexp(dim=0)


def recombine(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """{modality: (B^M, dim)}: one row for every choice of a sample for each modality."""
    count = len(features)
    rows = {}
    for m, (name, f) in enumerate(features.items()):
        # An axis for each modality, along which the others' samples are repeated.
        own_axis = f.unflatten(0, [len(f) if k == m else 1 for k in range(count)])
        rows[name] = own_axis.expand(*[len(f)] * count, -1).flatten(0, count - 1)
    return rows
