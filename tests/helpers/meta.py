"""PyTorch's meta device in an accelerator's place: operations give shapes alone, and no tensor has values.

Tensors of two devices in one operation, or a value read by the host, are errors there, as on an accelerator the one is
and the other a wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
MAKING = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


class Copies(TorchDispatchMode):
    """Within, a copy to the device for which the host would wait is an error."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        source = {torch.ops.aten._to_copy.default: "self", torch.ops.aten.copy_.default: "src"}.get(func)
        if source and result.is_meta and not named[source].is_meta and not named.get("non_blocking"):
            raise RuntimeError("the host waits for a copy to the meta device")
        return result


class Makings(TorchFunctionMode):
    """Within, a tensor made on the device of the host's numbers is an error: that is a copy, too."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if func in MAKING and result.is_meta:
            raise RuntimeError("the host waits for numbers that it sends to the meta device")
        return result


@contextmanager
def no_waits() -> Iterator[None]:
    """Within, what makes the host wait for an accelerator is an error, where that can be seen without one."""
    with Makings(), Copies():
        yield
