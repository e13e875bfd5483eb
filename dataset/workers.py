"""Processes that read for this one: they end with what they read for, and what goes wrong with them is one sentence.

They ignore the signals that are sent to their whole group, since the main process decides when a run ends
(utils/stopping.py). Whoever ends them must therefore kill them (utils/children.py).
"""

import errno
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Listener
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dataset.base import Batch
from utils.children import kill, noted, wait_for
from utils.errors import RunError, warn
from utils.stopping import Stopped, asked, held, ignore

LONG, PATIENCE = 60, 1800  # seconds of waiting for one batch after which that is said, and given up
NOTICED = 5  # seconds after which the end of a process is noticed at the latest, on a busy machine above all
STOPPING = 20  # the latter once the run has been sent a signal
SHARED = Path("/dev/shm")  # where tensors lie that processes hand over
MORE_SHARED = "lower --batch_size or --workers (0 needs none), or give the container --ipc=host or a larger --shm-size"
OPEN_FILES = "too many open files: raise the limit (ulimit -n), or lower --workers"
UNSENT = 100  # with which, and the error's number, a process ends that cannot hand over what it has read
END = object()


class Loader(DataLoader):
    """A DataLoader whose processes end when its iteration is left: at its end, by an error anywhere, with the program.

    Raises, while it is iterated over:
        RunError: if a process cannot be started, is killed, cannot hand over what it has read, or does not answer.
        Stopped: if it does not answer while the run is stopped by a signal.
    """

    def __init__(self, dataset: Dataset, **settings: Any):
        super().__init__(dataset, worker_init_fn=begin, **settings)

    def check_worker_number_rationality(self) -> None:
        """No warning of more processes than cores: they wait for files most of the time, and change no result."""

    def __iter__(self) -> Iterator:
        if not self.num_workers:
            yield from super().__iter__()
            return
        crew = Crew(self.num_workers)
        try:
            crew.start(super().__iter__)
            while (item := crew.take()) is not END:
                crew.check_room(item, min(len(self), self.prefetch_factor * self.num_workers + 1))
                yield item
        finally:
            crew.end()


class Crew:
    """The processes of one pass over a loader."""

    def __init__(self, count: int):
        self.count = count
        self.processes: set[BaseProcess] = set()
        self._items: Iterator | None = None
        self._room = free_shared()  # before they have taken any
        self._taken, self._waiting = 0, False
        self._left = threading.Event()
        self._stuck = False  # whether they have been killed because they did not answer

    def start(self, make: Callable[[], Iterator]) -> None:
        """Start the processes: `make()` returns the iterator over their items.

        Raises:
            RunError: if the system has no room for them, or they could not hand over tensors.
        """
        check_sockets()
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            with held(), noted(self.processes):  # a signal to the group must not end one that cannot ignore it yet
                self._items = make()
        except OSError as error:
            raise RunError(
                f"{self.count} loader processes cannot be started ({error.strerror}): lower --workers (0 needs none)"
            ) from error
        # PyTorch's handler raises wherever this process is when one of them is killed, in the midst of a file, say.
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        threading.Thread(target=self._watch, daemon=True).start()

    def take(self) -> Any:
        """The next item, or END."""
        self._waiting = True
        try:
            return next(self._items, END)
        except (RuntimeError, OSError, EOFError) as error:
            if reason := self._reason(error):
                raise reason from error
            raise
        finally:
            self._taken, self._waiting = self._taken + 1, False

    def check_room(self, item: Any, most: int) -> None:
        """Raises RunError if `most` batches like this first one, which may all wait here, will find no room."""
        if self._taken > 1 or self._room is None or not isinstance(item, Batch):
            return
        if (size := sum(tensor.nbytes for tensor in item.tensors)) * most > self._room:
            raise RunError(
                f"{most} batches of {size / 1e6:.1f} MB may wait at a time, but {SHARED}, where they do, had "
                f"{self._room / 1e6:.1f} MB free: {MORE_SHARED}"
            )

    def end(self) -> None:
        """End the processes: those that do not within GRACE by being killed."""
        self._left.set()
        self._items = None  # PyTorch tells them to end and waits for them; `_watch` sees to it that this is short
        kill(self.processes)

    def _watch(self) -> None:
        """In a thread: kill processes that do not answer, so that nobody waits for them for ever."""
        seconds, taken = 0, 0
        while not self._left.wait(1):
            seconds = seconds + 1 if self._waiting and self._taken == taken else 0
            taken = self._taken
            if seconds == LONG:
                warn(f"no batch has come for {LONG} seconds: still waiting for {len(self.processes)} loader processes")
            if seconds >= (STOPPING if asked() else PATIENCE):
                self._stuck = True
                break
        else:
            wait_for(self.processes)
        for process in self.processes:
            process.kill()

    def _reason(self, error: Exception) -> RunError | None:
        """What has happened to a process, in one sentence; None if the error is of another kind."""
        text = str(error)
        if "Original Traceback" in text:  # the process lives, and has passed on an error of its own
            return None
        if self._stuck:
            if number := asked():
                return Stopped(number, " while it waited for a batch, and this epoch's steps are lost")
            return RunError(
                f"no batch has come for {PATIENCE} seconds: the data's disk or a loader process hangs; look after it, "
                "or use --workers 0"
            )
        if "Too many open files" in text:
            return RunError(OPEN_FILES)
        until = time.monotonic() + NOTICED
        while not (codes := [process.exitcode for process in self.processes if process.exitcode]):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        if not codes and isinstance(error, EOFError | ConnectionError):
            return RunError(f"a loader process has broken off what it handed over, most likely for {OPEN_FILES}")
        if not codes:
            return None
        if -signal.SIGBUS in codes:
            return RunError(f"a loader process found no room in {SHARED}: {MORE_SHARED}")
        if -signal.SIGKILL in codes:
            return RunError(
                "a loader process was killed, as the system does when memory is short: lower --workers or --batch_size"
            )
        if codes[0] >= UNSENT:
            return RunError(unsent(codes[0] - UNSENT))
        how = f"by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"with status {codes[0]}"
        return RunError(f"a loader process ended {how}: start this again, with --workers 0 to see why")


def check_sockets() -> None:
    """Raises RunError if processes cannot hand over tensors, which they do by sockets in the folder TMPDIR."""
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        place = f"TMPDIR ({tempfile.gettempdir()})" if "TMPDIR" in os.environ else tempfile.gettempdir()
        raise RunError(
            f"loader processes need sockets in {place}, where none can be made ({error}): "
            "set TMPDIR to another folder of a short name, such as /tmp, or use --workers 0"
        ) from None


def free_shared() -> int | None:
    """Bytes that the processes may hand over now; None where the system does not say."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def shared(tensors: Sequence[Tensor]) -> None:
    """Move the tensors of a batch to where other processes see them, if this is a loader's process.

    PyTorch would do so by itself, but in a thread, whose errors nobody is told.

    Raises:
        RunError: if there is no room.
    """
    if get_worker_info() is None:
        return
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:
        told = re.search(r"\((\d+)\)", str(error))
        # For a lack of room PyTorch gives the number of whatever error came before.
        number = errno.ENOSPC if "unable to allocate" in str(error) else int(told[1]) if told else 0
        size = sum(tensor.nbytes for tensor in tensors) / 1e6
        raise RunError(unsent(number, f"a batch of {size:.1f} MB")) from None


def unsent(number: int, what: str = "a batch") -> str:
    """Why a process cannot hand over what it has read: the system's error number, or 0."""
    if number in (errno.EMFILE, errno.ENFILE):
        return OPEN_FILES
    free = free_shared()
    room = f" ({SHARED} has {free / 1e6:.1f} MB free)" if free is not None else ""
    if number in (errno.ENOSPC, errno.ENOMEM):
        return f"{what} finds no room in shared memory{room}: {MORE_SHARED}"
    reason = os.strerror(number) if number else "for a reason that the system does not tell"
    return f"a loader process cannot hand over {what} ({reason}): use --workers 0"


def begin(number: int) -> None:
    """The first that a loader's process does."""
    ignore(number)
    # Items are sent by a thread of the queue, which would drop one that it cannot send, and the reader wait for ever.
    Queue._on_queue_feeder_error = staticmethod(leave)


def leave(error: Exception, _: Any) -> None:
    """End the process for an item that cannot be sent."""
    os._exit(UNSENT + (error.errno or 0 if isinstance(error, OSError) else 0))
