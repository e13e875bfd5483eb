"""A batch on several processes: each encodes its share, and the features of all are gathered."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from utils.distributed.processes import rank, world


def share(count: int) -> slice:
    """This process's part of `count` samples: as equal as can be; all of them if there are fewer than processes."""
    if count < world():
        return slice(0, count)
    size, more = divmod(count, world())
    start = rank() * size + min(rank(), more)
    return slice(start, start + size + (rank() < more))


class Share(dict):
    """The inputs of this process's share of a batch: {modality: its rows}; the batch has `total` samples."""

    def __init__(self, inputs: Mapping[str, Tensor], total: int):
        super().__init__(inputs)
        self.total = total


def rows(own: Tensor, total: int) -> Tensor:
    """(total, ...) of all processes' rows, in the order of the batch."""
    if len(own) == total:
        return own
    most = -(-total // world())
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    gathered = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(gathered, padded)
    size, more = divmod(total, world())
    return torch.cat([part[: size + (number < more)] for number, part in enumerate(gathered)])


class Gather(torch.autograd.Function):
    """`rows`, differentiable: backward gives each process the gradient of its own rows. All compute the same loss."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, total: int) -> Tensor:
        ctx.total = total
        return rows(own, total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[share(ctx.total)], None


class Alike(torch.autograd.Function):
    """The identity on what every process computes alike; its gradient is divided: it will be summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / world()


def whole(features: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features {modality: (B, dim)} of the whole batch, from those of `inputs`, a `Share` or what all have."""
    if world() == 1:
        return dict(features)
    own = torch.cat(list(features.values()), dim=1)
    total = inputs.total if isinstance(inputs, Share) else len(own)
    everyone = Gather.apply(own, total) if total > len(own) else Alike.apply(own)
    return dict(zip(features, everyone.split([x.shape[1] for x in features.values()], dim=1), strict=True))


def batch_mean(own: Tensor) -> Tensor:
    """(...) the mean over the rows of the whole batch, from this process's rows (B, ...); without a gradient."""
    if world() == 1:
        return own.mean(dim=0)
    sums = torch.cat([own.detach().sum(dim=0).flatten(), own.new_tensor([float(len(own))])])
    dist.all_reduce(sums)
    return (sums[:-1] / sums[-1]).view(own.shape[1:])


def has_dropout(module: nn.Module) -> bool:
    """Whether a module draws dropout anywhere in it."""
    return any(isinstance(part, _DropoutNd) for part in module.modules())


@contextlib.contextmanager
def own_draws(wanted: bool) -> Iterator[None]:
    """Let draws within differ from process to process, where that is `wanted` (dropout); then all draw alike again."""
    if world() == 1 or not wanted:
        yield
        return
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng():
        torch.manual_seed(seed + rank())
        yield
