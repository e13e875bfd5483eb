"""Gradients summed over processes, several MB at a time, while the backward pass goes on.

One sum a parameter costs more than the numbers in it; and it keeps the backward pass waiting. As in PyTorch's
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
    """From now on gradients of `parameters`, however they are asked for, are sums over the processes.

    Processes must ask for the same ones in the same order, which they do when they build the same graph.
    """

    def __init__(self, parameters: Iterable[Tensor], size: int = SIZE):
        self.size = size
        self._full: Tensor | None = None  # the bucket that is being filled
        self._used = 0  # of its numbers
        self._held: list[tuple[Tensor, Tensor]] = []  # (parameter, where in which bucket) of this pass
        self._works: list[Any] = []
        self._passing = False
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_hook(partial(self._take, parameter))

    @torch.no_grad()
    def _take(self, parameter: Tensor, grad: Tensor) -> Tensor:
        """What becomes of a gradient: a place in a bucket, which will hold the sum when the pass ends."""
        if parameter.grad is not None:  # which it is added to at once
            grad = grad.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(grad)
            return grad
        if not self._passing:
            self._passing = True
            Variable._execution_engine.queue_callback(self._finish)
        own = self._room(parameter, grad)
        own.copy_(grad)
        # A view of its own is held: autograd keeps `own` itself as .grad if nobody else has it.
        self._held.append((parameter, own.view_as(own)))
        return own

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
        if self._full is not None:
            self._works.append(dist.all_reduce(self._full[: self._used], async_op=True))
        self._full, self._used = None, 0

    @torch.no_grad()
    def _finish(self) -> None:
        """At the end of the pass, before anyone sees a gradient."""
        self._send()
        for work in self._works:
            work.wait()
        for parameter, own in self._held:
            grad = parameter.grad
            if grad is not None and grad.data_ptr() != own.data_ptr():  # a copy, made before the sum was there
                grad.copy_(own)
        self._held, self._works, self._passing = [], [], False


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
