"""One run on several processes, started by torchrun: each encodes its share of every batch, the rest sees it whole.

    torchrun --standalone --nproc_per_node=2 main.py --dataset CREMAD --method inforeg

Encoders are what costs. Their features are gathered, so the fusion head, the losses, and whatever a method makes of a
batch (scores, prototypes, draws) are computed on the whole batch by every process, alike. What is differentiated is the
loss of the whole batch, through the process's own share of the features; the sum of the encoders' gradients over the
processes is then that of one process. No method needs to know. Without torchrun nothing here does anything.

Batch normalisation sees the process's share, as in PyTorch's DistributedDataParallel, or with `GlobalBatchNorm` the
whole batch.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from utils.buckets import Buckets
from utils.errors import RunError


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun has started, if it has; all but the first say nothing.

    Raises:
        RunError: if torchrun's variables do not lead to the others.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, RuntimeError) as error:
        raise RunError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {error}: start this by torchrun") from None
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        dist.destroy_process_group()


def agreed(numbers: Sequence[int]) -> list[int]:
    """The largest of what the processes say, number by number; without waiting for an accelerator."""
    if world() == 1:
        return list(numbers)
    told = torch.tensor(numbers)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return told.tolist()


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def share(count: int) -> slice:
    """This process's part of `count` samples: as equal as can be; all of them if there are fewer than processes."""
    if count < world():
        return slice(0, count)
    size, more = divmod(count, world())
    start = rank() * size + min(rank(), more)
    return slice(start, start + size + (rank() < more))


class Share(dict):
    """{modality: this process's rows} of a batch of `total` samples."""

    def __init__(self, inputs: Mapping[str, Tensor], total: int):
        super().__init__(inputs)
        self.total = total


class Shares:
    """The loader's batches: inputs are this process's share, target and index those of the whole batch."""

    def __init__(self, loader: Iterable, totals: Sequence[int]):
        self.loader, self.totals = loader, totals

    def __len__(self) -> int:
        return len(self.totals)

    def __iter__(self) -> Iterator:
        for batch, total in zip(self.loader, self.totals, strict=True):
            whole = rows(torch.stack([batch.target, batch.index], dim=1), total)
            batch.inputs = Share(batch.inputs, total)
            batch.target, batch.index = whole.unbind(dim=1)
            yield batch


class ShareSampler:
    """Of each batch that `batches` draws, this process's part."""

    def __init__(self, batches: Iterable[list[int]]):
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[share(len(batch))]

    def __len__(self) -> int:
        return len(self.batches)


def rows(own: Tensor, total: int) -> Tensor:
    """(total, ...) of all processes' rows, in the order of the batch."""
    if len(own) == total:
        return own
    most = -(-total // world())
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(found, padded)
    size, more = divmod(total, world())
    return torch.cat([part[: size + (number < more)] for number, part in enumerate(found)])


class Gather(torch.autograd.Function):
    """`rows`; backward gives each process the gradient of its own, of a loss that all processes compute alike."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, total: int) -> Tensor:
        ctx.total = total
        return rows(own, total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[share(ctx.total)], None


class Alike(torch.autograd.Function):
    """The identity on what every process computes alike; the gradient is divided, since it will be summed over them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / world()


def whole(features: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features {modality: (B, dim)} of the whole batch, from those of `inputs`: a `Share`, or what all have."""
    if world() == 1:
        return dict(features)
    own = torch.cat(list(features.values()), dim=1)
    total = getattr(inputs, "total", len(own))
    everyone = Gather.apply(own, total) if total > len(own) else Alike.apply(own)
    return dict(zip(features, everyone.split([x.shape[1] for x in features.values()], dim=1), strict=True))


def batch_mean(own: Tensor) -> Tensor:
    """The mean over the rows of the whole batch, of this process's share (B, ...) of them; without a gradient."""
    if world() == 1:
        return own.mean(dim=0)
    sums = torch.cat([own.detach().sum(dim=0).flatten(), own.new_tensor([float(len(own))])])
    dist.all_reduce(sums)
    return (sums[:-1] / sums[-1]).view(own.shape[1:])


def has_dropout(module: nn.Module) -> bool:
    return any(isinstance(part, _DropoutNd) for part in module.modules())


@contextlib.contextmanager
def own_draws(wanted: bool) -> Iterator[None]:
    """Draws (dropout, where it is wanted) that differ from process to process; afterwards all draw alike again."""
    if world() == 1 or not wanted:
        yield
        return
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng():
        torch.manual_seed(seed + rank())
        yield


def share_gradients(*modules: nn.Module | None) -> None:
    """From now on gradients of these modules' parameters, however they are asked for, are sums over the processes."""
    if world() > 1:
        Buckets(p for module in modules if module is not None for p in module.parameters())


def agree(model: nn.Module) -> None:
    """Give every process the first one's state: running statistics differ where batch norm saw shares."""
    if world() > 1:
        for tensor in model.state_dict().values():
            held = tensor.contiguous()
            dist.broadcast(held, src=0)
            tensor.copy_(held)


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
    """Turn every batch norm below `module` into a `GlobalBatchNorm` of the same state and names."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            made = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            made.load_state_dict(child.state_dict())
            setattr(module, name, made.to(child.weight).train(child.training))
        else:
            synchronise_batch_norm(child)
