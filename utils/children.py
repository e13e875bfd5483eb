"""Processes that this one has started by multiprocessing: they are ended for sure, and with this one at the latest.

A process that ignores SIGTERM, is stopped or waits for a disk keeps multiprocessing waiting for ever, which sends that
signal when a program ends. None ignores SIGKILL.
"""

import atexit
import contextlib
import time
from collections.abc import Iterable, Iterator
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

GRACE = 2  # seconds that a process has to end by itself

_living: set[BaseProcess] = set()


@contextlib.contextmanager
def noted(processes: set[BaseProcess]) -> Iterator[None]:
    """Add to `processes` those that are started within, so that they end with this one if nobody ends them before."""
    before = set(active_children())
    try:
        yield
    finally:
        processes |= set(active_children()) - before
        _living.update(processes)


def wait_for(processes: Iterable[BaseProcess], seconds: float = GRACE) -> None:
    """Return when all processes have ended, or after so many seconds; reaps none of them."""
    pending, until = {process.sentinel for process in processes}, time.monotonic() + seconds
    while pending and (left := until - time.monotonic()) > 0:
        pending.difference_update(wait(pending, left))


def kill(processes: Iterable[BaseProcess]) -> None:
    """End the processes now."""
    processes = list(processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(GRACE)
    _living.difference_update(processes)


@atexit.register  # after multiprocessing.util, which multiprocessing.connection imports: called before its own
def _kill_all() -> None:
    kill(_living)
