"""What a training step does, counted without a clock: passes, operations, reads by the host, memory."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from unittest.mock import patch

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

READING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


@dataclass
class Counts:
    """What one step does.

    forward, backward: {encoder: samples that passed its first layer}, frames counted one by one; backward_calls: into
    autograd's engine; host_reads: operations that wait for the device, since the host needs a value or a size that it
    has computed; operations: of PyTorch, as dispatched to the device (one for a whole `_foreach_` list); flops: of
    matrix products and convolutions; operand_bytes: of the tensors that operations read and return, each time they do.
    """

    forward: dict[str, int]
    backward: dict[str, int]
    backward_calls: int
    host_reads: int
    operations: int
    flops: int
    operand_bytes: int


class Operations(TorchDispatchMode):
    """Counts what is dispatched while it is entered, the backward pass included."""

    def __init__(self):
        super().__init__()
        self.count, self.host_reads, self.operand_bytes = 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        self.host_reads += reads(func, args)
        result = func(*args, **kwargs or {})
        if not is_view(func):
            operands = tree_leaves((args, kwargs, result))
            self.operand_bytes += sum(x.numel() * x.element_size() for x in operands if isinstance(x, Tensor))
        return result


def is_view(func) -> bool:
    """Whether an operation returns another look at the memory that it was given, and touches none."""
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def reads(func, args) -> bool:
    """Whether the host has to wait for the result of an operation. An index does so only where it is a mask."""
    if func in INDEXING:
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return any(tag in func.tags for tag in READING)


def count(step: Callable[[], object], encoders: Mapping[str, nn.Module]) -> Counts:
    """Take one step and count. `encoders` are those whose passes are of interest."""
    backward, grad = torch.autograd.backward, torch.autograd.grad
    with (
        passes(encoders) as (forwards, backwards),
        patch.object(torch.autograd, "backward", wraps=backward) as backward_calls,
        patch.object(torch.autograd, "grad", wraps=grad) as grad_calls,
        Operations() as operations,
        FlopCounterMode(display=False) as flops,
    ):
        step()
    return Counts(
        forwards,
        backwards,
        backward_calls.call_count + grad_calls.call_count,
        operations.host_reads,
        operations.count,
        flops.get_total_flops(),
        operations.operand_bytes,
    )


@contextmanager
def passes(encoders: Mapping[str, nn.Module]) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Samples forward and backward through each encoder's first layer, since its stages may be called one by one."""
    forwards, backwards = dict.fromkeys(encoders, 0), dict.fromkeys(encoders, 0)

    def watch(name: str):
        def back(grad: Tensor) -> None:
            backwards[name] += len(grad)

        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            forwards[name] += len(output)
            if output.requires_grad:
                output.register_hook(back)

        return hook

    handles = [first_layer(encoder).register_forward_hook(watch(name)) for name, encoder in encoders.items()]
    try:
        yield forwards, backwards
    finally:
        for handle in handles:
            handle.remove()


def first_layer(encoder: nn.Module) -> nn.Module:
    """The first module that has weights itself, not in its children."""
    return next(module for module in encoder.modules() if next(module.parameters(recurse=False), None) is not None)


def held_bytes(owner: object) -> int:
    """Bytes of all tensors that can be reached from `owner`, gradients included; shared memory counts once."""
    storages = {storage._cdata: storage for storage in storages_of(owner)}
    return sum(storage.nbytes() for storage in storages.values())


def storages_of(owner: object) -> Iterator[torch.UntypedStorage]:
    """The memory of every tensor that can be reached from `owner`, gradients included; shared memory several times."""
    seen, queue = set(), [owner]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item.untyped_storage()
            queue.append(item.grad if item.is_leaf else None)
        # Of a function only what it holds: through its globals everything can be reached.
        queue += (item.__closure__ or ()) if isinstance(item, FunctionType) else gc.get_referents(item)
