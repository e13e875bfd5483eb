"""Runs as jobs: each is done once, as many at a time as wanted, and those of other processes are left to them."""

import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from scripts.experiments.cells import LOG, last_words
from utils.errors import CombinationError, InUseError, RunError
from utils.lock import owner

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Job:
    """Something to compute once: it is done when `folder` holds `made`, and it holds the lock `lock` meanwhile."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    needs: tuple[Path, ...] = ()
    made: str = "done"
    lock: str = "lock"

    @property
    def done(self) -> bool:
        """Whether it has made what it is for."""
        return (self.folder / self.made).exists()

    @property
    def ready(self) -> bool:
        """Whether the files that it needs are there."""
        return all(map(there, self.needs))

    @property
    def command(self) -> list[str]:
        """The words by which it is started."""
        program, *words = self.argv
        return [sys.executable, str(ROOT / program), *words]

    def why_failed(self, status: int) -> str:
        """Why its process, which has ended with `status`, left nothing, in a few words."""
        words = last_words(self.folder / LOG)
        return f"killed by signal {-status}, at: {words}" if status < 0 else words or f"ended with status {status}"

    def why_not(self) -> str:
        """Why it is missing without having failed."""
        if who := owner(self.folder, self.lock):
            return f"{who} is at it"
        if needed := [path for path in self.needs if not there(path)]:
            return f"it needs {needed[0]}"
        return last_words(self.folder / LOG)


def there(path: Path) -> bool:
    """Whether a file that a job needs is there: a list of samples, or a checkpoint whose run is done."""
    return path.exists() if path.suffix == ".txt" else (path.parent / "done").exists()


class Started(NamedTuple):
    """A job's process, the environment that is free again when it ends, and when it began."""

    process: subprocess.Popen
    environment: dict[str, str]
    began: float


def work_off(jobs: Sequence[Job], at_a_time: int) -> dict[Job, str]:
    """Run what is missing. Returns {job: why} of those that failed; what other processes are at is left to them."""
    waiting = [job for job in jobs if not job.done]
    free = environments(at_a_time)
    running: dict[Job, Started] = {}
    failed: dict[Job, str] = {}
    took: list[float] = []
    print(f"{len(jobs)} to do, {len(jobs) - len(waiting)} done before, {at_a_time} at a time", flush=True)
    try:
        while True:
            while free and (job := next_of(waiting)):
                waiting.remove(job)
                environment = free.pop(0)
                running[job] = Started(start(job, environment), environment, time.monotonic())
            if not running:
                return failed
            for job in ended(running):
                process, environment, began = running.pop(job)
                free.append(environment)
                if process.returncode == InUseError.status:
                    # Another machine was faster. It goes through the same list: the next time take another order.
                    waiting.append(job)
                    random.shuffle(waiting)
                    continue
                if job.done:
                    took.append(time.monotonic() - began)
                    outcome = duration(took[-1])
                elif process.returncode == CombinationError.status:
                    outcome = f"left out: {last_words(job.folder / LOG)}"
                else:
                    failed[job] = job.why_failed(process.returncode)
                    outcome = f"failed: {failed[job]}"
                left = len(waiting) + len(running)
                if left and took:
                    outcome += f"; {left} left, about {duration(statistics.mean(took) * left / at_a_time)}"
                print(f"[{len(jobs) - left}/{len(jobs)}] {job.name}: {outcome}", flush=True)
    finally:
        for started in running.values():
            started.process.terminate()
        for started in running.values():
            started.process.wait()


def next_of(waiting: list[Job]) -> Job | None:
    """The first job that can start; those that another machine has done meanwhile are taken off the list."""
    waiting[:] = [job for job in waiting if not job.done]
    return next((job for job in waiting if job.ready and not owner(job.folder, job.lock)), None)


def start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
    """The job's process, whose output goes to the log of its folder.

    Raises:
        RunError: if nothing can be written there.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        log = (job.folder / LOG).open("a")
    except OSError as error:
        raise RunError(f"cannot write to {job.folder} ({error.strerror}): choose OUT") from None
    with log:
        print(f"$ {shlex.join(job.command)}", file=log, flush=True)
        return subprocess.Popen(
            job.command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def ended(running: Mapping[Job, Started]) -> list[Job]:
    """The jobs that have ended; an empty list after 10 s without one: other machines change what can start, too."""
    for _ in range(100):
        if over := [job for job, started in running.items() if started.process.poll() is not None]:
            return over
        time.sleep(0.1)
    return []


def environments(at_a_time: int) -> list[dict[str, str]]:
    """The variables of each job that runs at a time: a log without delay, one thread, one of several GPUs in turn."""
    shared = {"PYTHONUNBUFFERED": "1"}
    if at_a_time == 1:
        return [shared]
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if len(gpus) < 2:
        return [shared] * at_a_time
    return [shared | {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(at_a_time)]


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
