"""Functions of a user's that are given each epoch's row, for a tracker of experiments, say (docs/EXTENDING.md)."""

from argparse import Namespace
from collections.abc import Callable

from utils.errors import warn
from utils.runs.history import Epoch

Callback = Callable[[dict, Namespace], None]
_registered: list[Callback] = []


def register(callback: Callback) -> Callback:
    """Have `callback(row, args)` called after each epoch, in the first process; usable as a decorator.

    row: the epoch as metrics.jsonl has it (`epoch` counts from 0; what is not finite is None), once it is on the disk;
    each callback gets its own copy. args: the run's arguments. A resumed run goes on with the epochs that are left, of
    which the first may have been told before.
    """
    _registered.append(callback)
    return callback


def call(epoch: Epoch, args: Namespace) -> None:
    """Call every registered function. One that fails is warned of, and does not end the run."""
    for callback in _registered:
        try:
            callback(epoch.plain(), args)
        except Exception as error:  # whatever a stranger's code raises
            name = getattr(callback, "__name__", repr(callback))
            warn(f"callback {name} failed after epoch {epoch.epoch + 1} ({type(error).__name__}: {error})")
