"""Make the runs of a table, a figure or an ablation, as many at a time as wanted, and write it.

    bash scripts/reproduce.sh                                            # every name, and what to expect of it
    SEEDS="0 1 2" DATASET=CREMAD DATA_ROOT=data/CREMAD JOBS=2 bash scripts/reproduce.sh table2

From the environment, with what is taken without it:

    SEEDS      0 1 2
    DATASET    one or more; the paper's
    DATA_ROOT  the folder of the data set, or of several data sets the folder in which they lie; data/...
    OUT        the folder of all results; results
    EXTRA      flags of main.py for every run; none. What makes a row wins over them
    JOBS       how many runs at a time; 1. If several, each has one CPU thread and a GPU in turn where there are several

Runs that are done are kept and those broken off resumed. Runs that a live process is at are left to it, here or on
another machine that shares OUT. A run that fails does not stop the others; its output is in log.txt of its folder.
`reproduce.sh robustness FOLDER` tests all finished runs below a folder (scripts/robustness.py has a --help of its own).
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset import DATASETS
from scripts.experiments.cells import LOG, Cell, Experiment, cells, machine_words, parsed
from scripts.experiments.jobs import Job, work_off
from scripts.experiments.overview import overview
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.experiment import write_experiment
from scripts.results.tables import RULES
from utils.errors import RunError, one_sentence

OURS = ("--dataset", "--method", "--seed", "--out", "--data_root", "--tag", "--resume")  # not for EXTRA to say


@dataclass(frozen=True)
class Request:
    """The runs that the environment asks for."""

    experiment: Experiment
    datasets: Sequence[str]
    seeds: Sequence[int]
    out: str
    roots: dict[str, str | None]  # of each data set; None: its own default
    extra: Sequence[str]
    jobs: int

    def places(self, dataset: str) -> tuple:
        """The words that name the runs on one data set, for tables and figures, too."""
        return dataset, self.seeds, self.out, self.roots[dataset], self.extra


def main(argv: list[str] | None = None) -> None:
    """Make the runs and their table; without a name say what there is. Ends with status 1 if a run has failed.

    Raises:
        RunError: for a request that makes no sense.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS, nargs="?", metavar="NAME", help="a name of the list below")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and run nothing")
    parser.add_argument("--probe", action="store_true", help="linear probes of all runs, too")
    parser.add_argument("--rule", choices=RULES, default="last", help="of the table (default: last)")
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        parser.epilog = f"names:\n\n{overview()}"
        parser.print_help()
        return
    flags = parser.parse_args(argv)
    if flags.name is None:
        parser.error("which table or figure? Without any word, all names are listed")
    wanted = read_environment(EXPERIMENTS[flags.name])
    jobs, refused = plan(wanted, flags.probe)
    for name, why in refused.items():
        print(f"left out: {name}: {why}", file=sys.stderr if flags.list else sys.stdout)
    if flags.list:
        print("\n".join(shlex.join(job.command) for job in jobs))
        return
    failed = work_off(jobs, wanted.jobs)
    for dataset in wanted.datasets:
        write_experiment(flags.name, *wanted.places(dataset), flags.rule)
    report(jobs, failed, wanted)
    if failed:
        sys.exit(1)


def report(jobs: Sequence[Job], failed: dict[Job, str], wanted: Request) -> None:
    """Draw the figure if every run is there, and say why others are missing."""
    missing = [job for job in jobs if not job.done]
    name = wanted.experiment.name
    if name.startswith("figure") and not missing:
        from scripts.drawing import figures  # here, since tables need no matplotlib

        for dataset in wanted.datasets:
            print(f"written: {figures.draw(name, *wanted.places(dataset))}")
    for job in missing:
        if job not in failed:
            print(f"not run: {job.name}: {job.why_not()}")
    for job, why in failed.items():
        print(f"failed: {job.name}: {why} ({job.folder / LOG})")


def read_environment(experiment: Experiment) -> Request:
    """The request of the environment's variables.

    Raises:
        RunError: that names the variable which is wrong.
    """
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
    """Raises RunError if the word of a variable is no whole number from `at_least` on."""
    if not word.isdecimal() or int(word) < at_least:
        raise RunError(f"{variable}={os.environ[variable]}: {word!r} is not a whole number from {at_least} on")
    return int(word)


def default_root(experiment: Experiment, dataset: str) -> Path:
    """Where the data set lies if nobody says otherwise."""
    return Path(parsed(["--dataset", dataset, *shlex.split(experiment.flags.get(dataset, ""))]).data_root)


def plan(wanted: Request, probe: bool) -> tuple[list[Job], dict[str, str]]:
    """The jobs, each once, those last that need others; and {cell: why} of those without a command line."""
    jobs: dict[tuple[Path, str], Job] = {}
    refused = {}
    for dataset in wanted.datasets:
        try:
            of_dataset = cells(wanted.experiment, *wanted.places(dataset))
        except RunError as error:
            raise RunError(f"{wanted.experiment.name} on {dataset}: {error}") from None
        for cell in of_dataset:
            if cell.folder is None:
                refused[name_of(cell, dataset)] = cell.refusal
                continue
            job = Job(name_of(cell, dataset), cell.argv, cell.folder, cell.needs)
            jobs.setdefault((job.folder, job.made), job)
            if probe and cell.row.program == "main.py":
                jobs.setdefault((job.folder, "probe.json"), probe_of(job))
    return sorted(jobs.values(), key=lambda job: bool(job.needs)), refused


def name_of(cell: Cell, dataset: str) -> str:
    """The name of a cell in messages."""
    return f"{cell.row.label} on {dataset}, seed {cell.seed}"


def probe_of(run: Job) -> Job:
    """The linear probe of a run."""
    checkpoint = run.folder / "last.pt"
    argv = ("scripts/linear_probe.py", str(checkpoint), *machine_words(parsed(run.argv[1:])))
    return Job(f"probe of {run.name}", argv, run.folder, (checkpoint,), made="probe.json", lock="probe.lock")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
