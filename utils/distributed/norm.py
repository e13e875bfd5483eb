"""Batch normalisation by the statistics of the whole batch, on any number of processes."""

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed.processes import world


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of the whole batch, on any device (PyTorch's own needs CUDA)."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions after the channels."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        places = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_tensor(float(x.numel() // x.shape[1]))
        dist.all_reduce(count)
        mean = all_reduce(x.sum(dim=places)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dim=places)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Turn every batch norm below `module` into a `GlobalBatchNorm` of the same parameters, buffers and names."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            made = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            for held in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(made, held, getattr(child, held))  # no copies: traces and regulations know these already
            setattr(module, name, made.train(child.training))
        else:
            synchronise_batch_norm(child)
