"""Gradients summed over processes, several MB at a time, while the backward pass goes on.

A sum for each parameter would cost more than its numbers do, and keep the backward pass waiting. As in PyTorch's
DistributedDataParallel, gradients are laid side by side in buckets as they come, and a bucket that is full is summed in
the background. Unlike there, they may be asked for by `backward` or by `torch.autograd.grad`, of any part of the
parameters, as often as a method wants: every pass ends with the sums.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.autograd import Variable

from utils.distributed.processes import world

SIZE = 25 * 2**20  # bytes of a bucket; one larger parameter has one of its own


class Buckets:
    """Gradients of `parameters` are sums over the processes from now on, however they are asked for.

    Processes must ask for the same ones in the same order, which they do when they build the same graph.
    """

    def __init__(self, parameters: Iterable[Tensor], size: int = SIZE):
        self.size = size
        self._full: Tensor | None = None  # the bucket that is being filled
        self._used = 0  # how many of its numbers are taken
        self._held: list[tuple[Tensor, Tensor]] = []  # (parameter, its place in a bucket) of this pass
        self._works: list[Any] = []  # sums on their way
        self._passing = False  # whether a backward pass is going on
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_hook(partial(self._take, parameter))

    @torch.no_grad()
    def _take(self, parameter: Tensor, grad: Tensor) -> Tensor:
        """The hook: the gradient is replaced by a place in a bucket, which will hold the sum when the pass ends."""
        if parameter.grad is not None:  # autograd adds to it at once, so the sum must be there
            grad = grad.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(grad)
            return grad
        if not self._passing:
            self._passing = True
            Variable._execution_engine.queue_callback(self._finish)
        place = self._room(parameter, grad)
        place.copy_(grad)
        # A second view is held: autograd keeps `place` itself as .grad if nobody else has it.
        self._held.append((parameter, place.view_as(place)))
        return place

    def _room(self, parameter: Tensor, grad: Tensor) -> Tensor:
        """A view of the bucket in the parameter's shape and memory layout."""
        count, bucket = grad.numel(), self._full
        same = bucket is not None and (bucket.dtype, bucket.device) == (grad.dtype, grad.device)
        if not same or self._used + count > len(bucket):
            self._send()
            self._full = grad.new_empty(max(count, self.size // grad.element_size()))
        layout = torch.empty_like(parameter, device="meta").stride()
        place = self._full[self._used :].as_strided(parameter.shape, layout)
        self._used += count
        return place

    def _send(self) -> None:
        """Begin to sum the bucket that is being filled."""
        if self._full is not None:
            self._works.append(dist.all_reduce(self._full[: self._used], async_op=True))
        self._full, self._used = None, 0

    @torch.no_grad()
    def _finish(self) -> None:
        """Wait for all sums: the last of a backward pass, before anyone sees a gradient."""
        self._send()
        for work in self._works:
            work.wait()
        for parameter, place in self._held:
            grad = parameter.grad
            if grad is not None and grad.data_ptr() != place.data_ptr():  # a copy, made before the sum was there
                grad.copy_(place)
        self._held, self._works, self._passing = [], [], False


def share_gradients(*modules: nn.Module | None) -> None:
    """Sum gradients of these modules' parameters over the processes from now on, however they are asked for."""
    if world() > 1:
        Buckets(p for module in modules if module is not None for p in module.parameters())


def agree(model: nn.Module) -> None:
    """Give every process the first one's state: running statistics differ where batch norm saw shares."""
    if world() > 1:
        for tensor in model.state_dict().values():
            held = tensor.contiguous()
            dist.broadcast(held, src=0)
            tensor.copy_(held)
