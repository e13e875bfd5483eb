"""All clips of a preparation, made in this process or in several, of which none can take the others with it."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess

import cv2
from tqdm import tqdm

from dataset.prepare.clips import Clip, Maker
from dataset.prepare.space import check_space, in_units, size_on_disk
from utils.children import kill, noted, wait_for
from utils.errors import RunError

PROBES = 5  # clips whose size on disk stands for that of all


def prepare_clips(clips: Sequence[Clip], make: Maker, workers: int) -> dict[str, str]:
    """Make each clip that is not finished yet, in `workers` processes; return {clip: reason} of those that failed.

    Raises RunError if the disk is too small, or the processes die before they begin.
    """
    make.clear()
    todo = [clip for clip in clips if not make.finished(clip.name)]
    ahead = {clip.name for clip in todo}
    noted = {name: sizes for name, sizes in make.noted().items() if name not in ahead}
    make.note(noted)
    print(f"{make.pictures}: {len(clips)} clips, {len(clips) - len(todo)} already there, {len(todo)} to do")
    # Spread over the list, since neighbours are alike.
    step = -(-len(todo) // PROBES) or 1
    probes, rest = todo[::step], [clip for number, clip in enumerate(todo) if number % step]
    reasons: dict[str, str | None] = {}
    # In this process alone where there is one worker.
    several = Processes(make, min(workers, len(todo))) if workers > 1 else nullcontext(partial(one_by_one, make))
    with tqdm(total=len(todo), desc=make.pictures.name, unit="clip") as bar, several as made:
        for name, reason in made(probes):
            reasons[name] = reason
            bar.update()
        good = [clip.name for clip in probes if reasons[clip.name] is None]
        if rest and good:
            size = sum(size_on_disk(make.places(name)) for name in good) / len(good)
            what = f"{len(rest)} more clips need about {{}} ({in_units(size)} each, the mean of {len(good)})"
            check_space(make.out, size * len(rest), what)
        for name, reason in made(rest):
            reasons[name] = reason
            bar.update()
    good = [clip.name for clip in clips if reasons.get(clip.name) is None]
    make.note(noted | {name: make.sizes(name) for name in good if name not in noted})
    return {name: reason for name, reason in sorted(reasons.items()) if reason is not None}


def one_by_one(make: Maker, clips: Sequence[Clip]) -> Iterator[tuple[str, str | None]]:
    """Make the clips in this process; give (name, reason why it cannot be made, or None) of each."""
    for clip in clips:
        yield clip.name, make(clip)


class Processes:
    """Makes clips in several processes, kept from call to call: `with Processes(make, 4) as made: made(clips)`.

    A process may die: killed for want of memory, or with a decoder that a damaged file brings down. The clips that were
    in work are then made alone, one after the other; one that ends its process again has failed.
    """

    def __init__(self, make: Maker, workers: int):
        self.make, self.workers = make, workers
        self.pool: ProcessPoolExecutor | None = None
        self.processes: set[BaseProcess] = set()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def __call__(self, clips: Sequence[Clip]) -> Iterator[tuple[str, str | None]]:
        """Give (name, reason why it cannot be made, or None) of each clip, as they come."""
        left = {clip.name: clip for clip in clips}
        while left:
            try:
                for name, reason in self._try(list(left.values())):
                    del left[name]
                    yield name, reason
            except BrokenProcessPool as error:
                if not (in_work := [clip for clip in left.values() if self.make.begun(clip.name)]):
                    raise RunError("the workers die before they begin: run again with fewer --workers") from error
                for clip in in_work:
                    self.make.clear()
                    try:
                        ((_, reason),) = self._try([clip])
                    except BrokenProcessPool:
                        reason = "ends the process that decodes it: damaged, or too large for the memory"
                    del left[clip.name]
                    yield clip.name, reason
                self.make.clear()

    def _try(self, clips: Sequence[Clip]) -> Iterator[tuple[str, str | None]]:
        """The same while no process dies; BrokenProcessPool is raised, and the pool given up, when one does."""
        if self.pool is None:
            # Spawned, not forked: OpenCV and tqdm hold threads that a fork would leave in an undefined state.
            self.pool = ProcessPoolExecutor(self.workers, get_context("spawn"), leave_with_parent)
        try:
            with noted(self.processes):
                futures = {self.pool.submit(self.make, clip): clip.name for clip in clips}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            self._end()
            raise

    def _end(self) -> None:
        """End the processes; where an error has come, one of them may hang."""
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)
            wait_for(self.processes)
            kill(self.processes)
            self.pool = None


def leave_with_parent() -> None:
    """Start a worker, which must not wait for work for ever once the program that started it has been killed."""
    cv2.setNumThreads(1)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
