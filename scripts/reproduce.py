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
from pathlib import Path

from dataset import DATASETS
from engine.hints import one_of
from scripts.experiments.cells import Experiment, parsed
from scripts.experiments.overview import overview
from scripts.experiments.paper import EXPERIMENTS
from scripts.experiments.request import Request, carry_out, check_extra, jobs_at_a_time, number, plan, show
from scripts.results.tables import RULES
from utils.errors import DataError, RunError, one_sentence


def main(argv: list[str] | None = None) -> None:
    """Make the runs and their table; without a name say what there is. Ends with status 1 if a run has failed.

    Raises:
        RunError: for a request that makes no sense.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "name",
        choices=EXPERIMENTS,
        type=one_of(EXPERIMENTS),
        nargs="?",
        metavar="NAME",
        help="a name of the list below",
    )
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and run nothing")
    parser.add_argument("--probe", action="store_true", help="linear probes of all runs, too")
    parser.add_argument("--rule", choices=RULES, default="last", help="of the table (default: last)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN", help="of the table, in this order")
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        parser.epilog = f"names:\n\n{overview()}"
        parser.print_help()
        return
    flags = parser.parse_args(argv)
    if flags.name is None:
        parser.error("which table or figure? Without any word, all names are listed")
    wanted = read_environment(EXPERIMENTS[flags.name])
    jobs = plan(wanted, flags.probe)
    if flags.list:
        show(jobs)
        return
    try:
        good = carry_out(wanted, jobs, flags.rule, flags.columns)
    except DataError as error:
        raise DataError(f"{error} (by DATA_ROOT; DATASET names those to run on)") from None
    if not good:
        sys.exit(1)


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
    check_extra(extra, f"EXTRA={given.get('EXTRA')}")
    root = given.get("DATA_ROOT")
    roots = dict.fromkeys(datasets, root)
    if root and len(datasets) > 1:
        roots = {name: str(Path(root) / default_root(experiment, name).name) for name in datasets}
    seeds = [number("SEEDS", word, 0) for word in dict.fromkeys((given.get("SEEDS") or "0 1 2").split())]
    return Request(experiment, datasets, seeds, given.get("OUT") or "results", roots, extra, jobs_at_a_time())


def default_root(experiment: Experiment, dataset: str) -> Path:
    """Where the data set lies if nobody says otherwise."""
    return Path(parsed(["--dataset", dataset, *shlex.split(experiment.flags.get(dataset, ""))]).data_root)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
