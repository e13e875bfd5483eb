"""A batch that an encoder sees in parts, so that the activations of one part at a time are in memory (--accumulate).

The features are those of the whole batch, and so are the losses, scores, gradients and Fisher traces that a method
makes of them. In the forward pass each part leaves its features alone; the backward pass encodes it once more to get
the gradient of the weights: gradient caching (Gao et al., RepL4NLP 2021), by PyTorch's activation checkpointing. One
more forward pass of the encoders a step is what it costs.
"""

from contextlib import nullcontext

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def encode_in_parts(encoder: nn.Module, x: Tensor, count: int, dropout: bool) -> Tensor:
    """Features (B, dim) of a batch (B, ...), encoded in `count` parts that differ by one sample at most.

    Batch normalisation takes its statistics from a part. `dropout`: whether the encoder draws, which it then does
    alike both times.
    """
    if not torch.is_grad_enabled():
        return encoder(x)
    training = encoder.training
    features = [
        checkpoint(
            encoder,
            part,
            use_reentrant=False,
            preserve_rng_state=dropout,
            context_fn=lambda: (nullcontext(), OnceMore(encoder, training)),
        )
        for part in x.tensor_split(min(count, len(x)))
    ]
    return torch.cat(features)


class OnceMore:
    """Within, the encoder is in the mode of its first pass; the running statistics are afterwards what they were.

    May be entered as often as a method goes backward.
    """

    def __init__(self, encoder: nn.Module, training: bool):
        self.encoder, self.training = encoder, training

    def __enter__(self) -> None:
        self.now = self.encoder.training
        self.encoder.train(self.training)
        norms = (module for module in self.encoder.modules() if isinstance(module, _BatchNorm))
        self.buffers = [(norm, name, held) for norm in norms for name, held in norm.named_buffers(recurse=False)]
        for norm, name, held in self.buffers:
            setattr(norm, name, held.clone())

    def __exit__(self, *_: object) -> None:
        self.encoder.train(self.now)
        for norm, name, held in self.buffers:
            setattr(norm, name, held)
