"""A method in the middle of an epoch: what its attributes hold, in plain values, and back into a new object.

A method's author has nothing to do for it. Kept are numbers, strings, tensors, lists, tuples and dicts of these, and
the attributes of objects. Parameters and modules are the model's and are left alone; so are the run's arguments.
"""

from argparse import Namespace
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from utils.errors import RunError

CONSTANT = (nn.Module, nn.Parameter, Namespace, type, FunctionType, MethodType, BuiltinFunctionType, torch.dtype)


def take(thing: Any) -> tuple:
    """The attributes of an object, loadable with weights_only=True.

    Raises:
        RunError: if one of them is of a type that cannot be kept; names it.
    """
    return _take(thing, type(thing).__name__, set())


def put(thing: Any, taken: tuple, device: torch.device) -> None:
    """Give `thing`, made as the object was that `taken` is of, what that one held.

    Lists and dicts are filled in place: another object may read the same ones. Tensors that were on an accelerator come
    to `device`.
    """
    _put(thing, taken, device)


def _take(value: Any, name: str, seen: set[int]) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)  # NumPy's floats are no plain ones
    if isinstance(value, CONSTANT) or id(value) in seen:
        return ("constant",)
    if isinstance(value, Tensor):
        return ("tensor", value.detach(), value.device.type != "cpu")
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [_take(item, f"{name}[{i}]", seen) for i, item in enumerate(value)])
    if isinstance(value, dict):
        return ("dict", [(key, _take(item, f"{name}[{key!r}]", seen)) for key, item in value.items()])
    if not hasattr(value, "__dict__"):
        raise RunError(
            f"{name} is a {type(value).__name__}, which no checkpoint within an epoch can hold: keep it in tensors and "
            "plain values, or use --checkpoint_minutes 0"
        )
    seen.add(id(value))
    return ("object", [(key, _take(item, f"{name}.{key}", seen)) for key, item in vars(value).items()])


def _put(old: Any, taken: Any, device: torch.device) -> Any:
    if not isinstance(taken, tuple):
        return taken
    kind, *content = taken
    if kind == "constant":
        return old
    if kind == "tensor":
        tensor, elsewhere = content
        return tensor.to(device) if elsewhere else tensor
    (items,) = content
    if kind in ("list", "tuple"):
        before = old if isinstance(old, list | tuple) and len(old) == len(items) else [None] * len(items)
        new = [_put(was, item, device) for was, item in zip(before, items, strict=True)]
        if isinstance(old, list) and kind == "list":
            old[:] = new
            return old
        return new if kind == "list" else tuple(new)
    if kind == "dict":
        before = old if isinstance(old, dict) else {}
        new = {key: _put(before.get(key), item, device) for key, item in items}
        if isinstance(old, dict):
            old.clear()
            old.update(new)
            return old
        return new
    for key, item in items:
        setattr(old, key, _put(getattr(old, key, None), item, device))
    return old
