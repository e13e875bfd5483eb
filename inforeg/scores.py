"""How well each modality does on a batch by its unimodal logits: what most methods of this field decide on.

Everything stays on the device; the scores carry no gradient.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def log_likelihood(unimodal_logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(M,) mean over the batch of log softmax(z^m)_y, in the modalities' order; larger is better."""
    return _true_class(unimodal_logits, target).mean(dim=1)


@torch.no_grad()
def confidence(unimodal_logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(M,) sum over the batch of softmax(z^m)_y, in the modalities' order; larger is better."""
    return _true_class(unimodal_logits, target).exp().sum(dim=1)


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 at least, also where autocast has made it bfloat16; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _true_class(unimodal_logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(M, B) log-probability of the true class."""
    logits = torch.stack(list(unimodal_logits.values()))
    log_p = full_precision(logits).log_softmax(dim=2)
    return log_p.gather(2, target.expand(len(log_p), -1).unsqueeze(2)).squeeze(2)
