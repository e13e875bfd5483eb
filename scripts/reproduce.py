"""Make the runs of a table, a figure or an ablation, as many at a time as wanted, and write it.

    SEEDS="0 1 2" DATASET=CREMAD DATA_ROOT=data/CREMAD JOBS=2 python scripts/reproduce.py table2

From the environment, with what is taken without it:

    SEEDS      0 1 2
    DATASET    one or more; the paper's
    DATA_ROOT  the folder of the data set, or of several data sets the folder in which they lie; data/...
    OUT        the folder of all results; results
    EXTRA      flags of main.py for every run; none. What makes a row wins over them
    JOBS       how many runs at a time; 1. If several, each has one CPU thread and a GPU in turn where there are several

Runs that are done are kept and those broken off resumed. Those that a live process is at are left to it, here or on
another machine that shares OUT. A run that fails does not stop the others; what it said is in log.txt of its folder.
"""

import argparse
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset import DATASETS
from scripts import collect
from scripts.experiments.cells import LOG, Cell, Experiment, cells, last_words, machine_words, parsed
from scripts.experiments.paper import EXPERIMENTS
from utils.errors import CombinationError, InUseError, RunError, one_sentence
from utils.lock import owner

ROOT = Path(__file__).resolve().parent.parent
OURS = ("--dataset", "--method", "--seed", "--out", "--data_root", "--tag", "--resume")  # not for EXTRA to say


@dataclass(frozen=True)
class Request:
    """What the environment asks for."""

    experiment: Experiment
    datasets: Sequence[str]
    seeds: Sequence[int]
    out: str
    roots: dict[str, str | None]  # of each data set; None: its own default
    extra: Sequence[str]
    jobs: int

    def places(self, dataset: str) -> tuple:
        """What tables and figures, too, are told of the runs on one data set."""
        return dataset, self.seeds, self.out, self.roots[dataset], self.extra


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
        return (self.folder / self.made).exists()

    @property
    def ready(self) -> bool:
        """Whether the runs whose files it needs are done."""
        return all((path.parent / "done").exists() for path in self.needs)

    @property
    def command(self) -> list[str]:
        program, *words = self.argv
        return [sys.executable, str(ROOT / program), *words]


def main(argv: list[str] | None = None) -> None:
    """Raises RunError for a request that makes no sense; ends with status 1 if a run has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS, metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and run nothing")
    parser.add_argument("--probe", action="store_true", help="linear probes of all runs, too")
    parser.add_argument("--rule", choices=collect.RULES, default="last", help="of the table (default: last)")
    own = parser.parse_args(argv)
    wanted = read_environment(EXPERIMENTS[own.name])
    jobs, refused = plan(wanted, own.probe)
    for name, why in refused.items():
        print(f"left out: {name}: {why}", file=sys.stderr if own.list else sys.stdout)
    if own.list:
        print("\n".join(shlex.join(job.command) for job in jobs))
        return
    failed = work_off(jobs, wanted.jobs)
    for dataset in wanted.datasets:
        collect.write_experiment(own.name, *wanted.places(dataset), own.rule)
    missing = [job for job in jobs if not job.done]
    if own.name.startswith("figure") and not missing:
        from scripts import figures  # here, since tables need no matplotlib

        for dataset in wanted.datasets:
            print(f"written: {figures.draw(own.name, *wanted.places(dataset))}")
    for job in missing:
        if job not in failed:
            print(f"not run: {job.name}: {why_not(job)}")
    for job, why in failed.items():
        print(f"failed: {job.name}: {why} ({job.folder / LOG})")
    if failed:
        sys.exit(1)


def read_environment(experiment: Experiment) -> Request:
    """Raises RunError that names the variable which is wrong."""
    given = os.environ
    datasets = given.get("DATASET", "").split() or list(experiment.datasets)
    if unknown := [name for name in datasets if name not in DATASETS]:
        raise RunError(f"DATASET={given['DATASET']}: {unknown[0]} is none of {', '.join(DATASETS)}")
    try:
        extra = shlex.split(given.get("EXTRA", ""))
    except ValueError as error:
        raise RunError(f"EXTRA={given['EXTRA']}: {error}") from None
    if ours := [word for word in extra if word.partition("=")[0] in OURS]:
        raise RunError(f"EXTRA={given['EXTRA']}: {ours[0]} is for the script to say")
    root = given.get("DATA_ROOT")
    roots = dict.fromkeys(datasets, root)
    if root and len(datasets) > 1:
        roots = {name: str(Path(root) / default_root(experiment, name).name) for name in datasets}
    seeds = [number("SEEDS", word, 0) for word in dict.fromkeys((given.get("SEEDS") or "0 1 2").split())]
    jobs = number("JOBS", given.get("JOBS") or "1", 1)
    return Request(experiment, datasets, seeds, given.get("OUT") or "results", roots, extra, jobs)


def number(variable: str, word: str, at_least: int) -> int:
    if not word.isdecimal() or int(word) < at_least:
        raise RunError(f"{variable}={os.environ[variable]}: {word!r} is not a whole number from {at_least} on")
    return int(word)


def default_root(experiment: Experiment, dataset: str) -> Path:
    return Path(parsed(["--dataset", dataset, *shlex.split(experiment.flags.get(dataset, ""))]).data_root)


def plan(wanted: Request, probe: bool) -> tuple[list[Job], dict[str, str]]:
    """The jobs, each once, those last that need others; and {cell: why} of those without a command line."""
    jobs: dict[tuple[Path, str], Job] = {}
    refused = {}
    for dataset in wanted.datasets:
        try:
            found = cells(wanted.experiment, *wanted.places(dataset))
        except RunError as error:
            raise RunError(f"{wanted.experiment.name} on {dataset}: {error}") from None
        for cell in found:
            if cell.folder is None:
                refused[name_of(cell, dataset)] = cell.refusal
                continue
            job = Job(name_of(cell, dataset), cell.argv, cell.folder, cell.needs)
            jobs.setdefault((job.folder, job.made), job)
            if probe and cell.row.program == "main.py":
                jobs.setdefault((job.folder, "probe.json"), probe_of(job))
    return sorted(jobs.values(), key=lambda job: bool(job.needs)), refused


def name_of(cell: Cell, dataset: str) -> str:
    return f"{cell.row.label} on {dataset}, seed {cell.seed}"


def probe_of(run: Job) -> Job:
    checkpoint = run.folder / "last.pt"
    argv = ("scripts/linear_probe.py", str(checkpoint), *machine_words(parsed(run.argv[1:])))
    return Job(f"probe of {run.name}", argv, run.folder, (checkpoint,), made="probe.json", lock="probe.lock")


def work_off(jobs: Sequence[Job], at_a_time: int) -> dict[Job, str]:
    """Run what is missing. Returns {job: why} of those that failed; what other processes are at is left to them."""
    waiting = [job for job in jobs if not job.done]
    free = environments(at_a_time)
    running: dict[Job, tuple[subprocess.Popen, dict[str, str], float]] = {}
    failed: dict[Job, str] = {}
    took: list[float] = []
    print(f"{len(jobs)} to do, {len(jobs) - len(waiting)} done before, {at_a_time} at a time", flush=True)
    try:
        while True:
            while free and (job := next_of(waiting)):
                waiting.remove(job)
                environment = free.pop(0)
                running[job] = (start(job, environment), environment, time.monotonic())
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
                    said = duration(took[-1])
                elif process.returncode == CombinationError.status:
                    said = f"left out: {last_words(job.folder / LOG)}"
                else:
                    failed[job] = why_failed(job, process.returncode)
                    said = f"failed: {failed[job]}"
                left = len(waiting) + len(running)
                if left and took:
                    said += f"; {left} left, about {duration(statistics.mean(took) * left / at_a_time)}"
                print(f"[{len(jobs) - left}/{len(jobs)}] {job.name}: {said}", flush=True)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.wait()


def next_of(waiting: list[Job]) -> Job | None:
    """The first that can start; those that another machine has done meanwhile are taken off the list."""
    waiting[:] = [job for job in waiting if not job.done]
    return next((job for job in waiting if job.ready and not owner(job.folder, job.lock)), None)


def start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
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


def ended(running: dict[Job, tuple]) -> list[Job]:
    """Those that have ended; an empty list after 10 s without: other machines change what can start, too."""
    for _ in range(100):
        if found := [job for job, (process, *_) in running.items() if process.poll() is not None]:
            return found
        time.sleep(0.1)
    return []


def environments(at_a_time: int) -> list[dict[str, str]]:
    """What each of the jobs at a time finds: a log without delay, one thread, and one of several GPUs in turn."""
    shared = {"PYTHONUNBUFFERED": "1"}
    if at_a_time == 1:
        return [shared]
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if len(gpus) < 2:
        return [shared] * at_a_time
    return [shared | {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(at_a_time)]


def why_failed(job: Job, status: int) -> str:
    words = last_words(job.folder / LOG)
    return f"killed by signal {-status}, at: {words}" if status < 0 else words or f"ended with status {status}"


def why_not(job: Job) -> str:
    """Of a job that is missing without having failed."""
    if who := owner(job.folder, job.lock):
        return f"{who} is at it"
    if needed := [path for path in job.needs if not (path.parent / "done").exists()]:
        return f"it needs {needed[0]}"
    return last_words(job.folder / LOG)


def duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
