"""SIGTERM and Ctrl-C: a run stops where it can keep what it has done, says so, and ends with status 143 or 130."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from utils.distributed.processes import agreed
from utils.errors import RunError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_asked = 0  # the number of the signal that has come, or 0
_noting = False  # whether a signal is only noted; otherwise it stops the program where it is
_stopping = False  # whether it has done so


class Stopped(RunError):
    """The signal `number` has stopped the run; `where` says how far it had come."""

    label = ""

    def __init__(self, number: int, where: str = ""):
        self.number, self.status = number, 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}{where}: go on with --resume")


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Let the first signal stop what runs within, by `Stopped`; a second Ctrl-C ends the process at once.

    What it stops may be a library in the midst of something, which turns `Stopped` into an error of its own.
    """
    global _asked, _stopping
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    try:
        yield
    except Exception as error:
        if _stopping and not isinstance(error, Stopped):
            raise Stopped(_asked) from error
        raise
    finally:
        _asked, _stopping = 0, False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Let a signal wait for the next `stop_if_asked`, so that nothing within is broken off halfway."""
    global _noting
    _noting = True
    try:
        yield
    finally:
        _noting = False


def asked() -> int:
    """The number of the signal that this process has been sent, or 0."""
    return _asked


def stop_if_asked() -> None:
    """Raises Stopped if one of the processes has been sent a signal."""
    (number,) = agreed([_asked])
    if number:
        raise Stopped(number)


def _receive(number: int, _) -> None:
    """The handler: stop now, or take note of the signal."""
    global _asked, _stopping
    if _asked:
        if number == signal.SIGINT:  # not for SIGTERM, which schedulers may send more than once
            os._exit(128 + number)
        return
    _asked = number
    if not _noting:
        _stopping = True
        raise Stopped(number)
    print(f"{signal.Signals(number).name}: stopping; Ctrl-C again to stop at once", file=sys.stderr)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let signals wait until the block is left; in processes that are started within, until they call `ignore`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore(_: int) -> None:
    """Let a loader's process ignore signals: its whole group is sent them, but the main process decides when to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
