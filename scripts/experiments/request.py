"""The runs that a program is asked for: which they are, how they are made, and what is written of them."""

import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset import DATASETS
from scripts.experiments.cells import LOG, Cell, Experiment, cells, machine_words, parsed
from scripts.experiments.jobs import Job, work_off
from scripts.results.experiment import write_experiment
from utils.errors import RunError

OURS = ("--dataset", "--method", "--seed", "--out", "--data_root", "--tag", "--resume")  # not for EXTRA to say
DRAWN = ("demo", "window_map")  # the experiments of ours that are pictures


@dataclass(frozen=True)
class Request:
    """The runs of an experiment on some data sets, and how many at a time."""

    experiment: Experiment
    datasets: Sequence[str]
    seeds: Sequence[int]
    out: str
    roots: Mapping[str, str | None]  # of each data set; None: its own default
    extra: Sequence[str]
    jobs: int

    def places(self, dataset: str) -> tuple:
        """The words that name the runs on one data set, for tables and figures, too."""
        return dataset, self.seeds, self.out, self.roots[dataset], self.extra

    def cells(self, dataset: str) -> list[Cell]:
        """The runs on one data set, seed by seed.

        Raises:
            RunError: if the flags of all runs are not for the experiment's base run.
        """
        try:
            return cells(self.experiment, *self.places(dataset))
        except RunError as error:
            raise RunError(f"{self.experiment.name} on {dataset}: {error}") from None


def plan(wanted: Request, probe: bool = False) -> list[Job]:
    """The jobs, each once, those last that need others; says on stderr which runs have no command line, and why.

    `probe`: a linear probe of every run, too.
    """
    jobs: dict[tuple[Path, str], Job] = {}
    for dataset in wanted.datasets:
        for cell in wanted.cells(dataset):
            name = f"{cell.row.label} on {dataset}, seed {cell.seed}"
            if cell.folder is None:
                print(f"left out: {name}: {cell.refusal}", file=sys.stderr)
                continue
            job = Job(name, cell.argv, cell.folder, cell.needs)
            jobs.setdefault((job.folder, job.made), job)
            if probe and cell.row.program == "main.py":
                jobs.setdefault((job.folder, "probe.json"), probe_of(job))
    return sorted(jobs.values(), key=lambda job: bool(job.needs))


def probe_of(run: Job) -> Job:
    """The linear probe of a run."""
    checkpoint = run.folder / "last.pt"
    argv = ("scripts/linear_probe.py", str(checkpoint), *machine_words(parsed(run.argv[1:])))
    return Job(f"probe of {run.name}", argv, run.folder, (checkpoint,), made="probe.json", lock="probe.lock")


def show(jobs: Sequence[Job]) -> None:
    """Print the commands, one a line, as a shell takes them."""
    print("\n".join(shlex.join(job.command) for job in jobs))


def carry_out(wanted: Request, jobs: Sequence[Job], rule: str = "last", columns: Sequence[str] = ()) -> bool:
    """Make the runs that are missing, write the tables and figures, and say at the end which runs are missing still.

    Returns whether none has failed.

    Raises:
        DataError: before the first run, if the data of one are not there.
    """
    read_data(jobs)
    failed = work_off(jobs, wanted.jobs)
    write(wanted, rule, columns)
    say_missing(jobs, failed)
    return not failed


def read_data(jobs: Sequence[Job]) -> None:
    """Read the splits of each data set that runs are still to be made on: a run each would say that they are missing.

    Raises:
        DataError: if they cannot be read.
    """
    read = set()
    for job in jobs:
        if job.argv[0] == "main.py" and not job.done:
            args = parsed(job.argv[1:])
            if args.dataset not in read:
                DATASETS[args.dataset].read_splits(args)
                read.add(args.dataset)


def say_missing(jobs: Sequence[Job], failed: Mapping[Job, str]) -> None:
    """A line for each run that is not done, with the reason; those that have failed come last."""
    for job in jobs:
        if not job.done and job not in failed:
            print(f"not run: {job.name}: {job.why_not()}")
    for job, why in failed.items():
        print(f"failed: {job.name}: {why} ({job.folder / LOG})")


def write(wanted: Request, rule: str = "last", columns: Sequence[str] = ()) -> None:
    """Write the tables, and the figures of those data sets whose runs are all there."""
    experiment = wanted.experiment
    for dataset in wanted.datasets:
        write_experiment(experiment, *wanted.places(dataset), rule, chosen=columns)
    if not (experiment.name.startswith("figure") or experiment.name in DRAWN or experiment.swept):
        return
    from scripts.drawing import figures  # here, since tables need no matplotlib

    for dataset in wanted.datasets:
        done = defaultdict(list)
        for cell in wanted.cells(dataset):
            done[cell.row.label].append(cell.done)
        complete = [all(of_row) for of_row in done.values()]
        # A sweep shows what there is; joint training, its first row if it has one, is no setting of it.
        if all(complete) or (experiment.swept and any(complete[1:])):
            print(f"written: {figures.draw(experiment, *wanted.places(dataset), rule)}")


def check_extra(extra: Sequence[str], where: str, more: Sequence[str] = ()) -> None:
    """Raises RunError, which names `where` they stand, if one of the flags of every run is for the program to say.

    `more`: flags that are so beside OURS.
    """
    if ours := [word for word in extra if word.partition("=")[0] in (*OURS, *more)]:
        raise RunError(f"{where}: {ours[0]} is for the script to say")


def number(variable: str, word: str, at_least: int) -> int:
    """Raises RunError if the word of an environment's variable is no whole number from `at_least` on."""
    if not word.isdecimal() or int(word) < at_least:
        raise RunError(f"{variable}={os.environ[variable]}: {word!r} is not a whole number from {at_least} on")
    return int(word)


def jobs_at_a_time() -> int:
    """JOBS of the environment, 1 without it.

    Raises:
        RunError: if it is no whole number from 1 on.
    """
    return number("JOBS", os.environ.get("JOBS") or "1", 1)
