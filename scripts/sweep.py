"""Try values of flags: every combination of them or some drawn at random, then the table and the plot.

    python scripts/sweep.py --dataset CREMAD --method inforeg --grid beta=0.1,0.5,0.9 threshold=0.02,0.04 --seeds 0 1 2
    python scripts/sweep.py --dataset CREMAD --method inforeg --grid lr=log:1e-3:1e-1 beta=0.1:1.0 --random 20
    python scripts/sweep.py --dataset CREMAD --method inforeg --grid beta=0.5,0.9 --tune 0 --val_fraction 0.1

Any other flag is main.py's and goes to every run. Runs lie where main.py writes them, so that a setting which another
sweep or table has trained is not trained again; they are made like those of reproduce.py: JOBS in the environment says
how many at a time, what is done is kept, what was broken off is resumed, what a live process is at is left to it, here
or on another machine. The table goes to <out>/tables, the plot of the accuracy against each flag to <out>/figures.

With --tune the test split chooses nothing: every setting is run with that one seed, the one with the highest accuracy
on the validation split (at the epoch which that split selects; of equals the first) is run with all --seeds, and the
table has it alone, by rule `val`. So it is done in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021), with one search for
all seeds instead of one for each. The plot then shows the validation accuracies of the search.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from dataset import DATASETS
from engine.hints import one_of
from methods import METHODS
from scripts.experiments import tuning
from scripts.experiments.cells import Experiment
from scripts.experiments.jobs import work_off
from scripts.experiments.request import Request, carry_out, check_extra, jobs_at_a_time, plan, say_missing, show
from scripts.experiments.search import REFERENCE, draw, every_combination, read_space, sweep_of
from scripts.results.tables import RULES
from utils.errors import RunError, one_sentence
from utils.numbers import count, positive


def main(argv: list[str] | None = None) -> None:
    """Make the runs of a sweep, their table and plot. Ends with status 1 if a run has failed.

    Raises:
        RunError: for flags or values that do not exist, and for --tune without a validation split.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", choices=DATASETS, type=one_of(DATASETS), required=True, help="what to train on")
    parser.add_argument("--method", choices=METHODS, type=one_of(METHODS), required=True, help="how to train")
    parser.add_argument(
        "--grid", nargs="+", required=True, metavar="FLAG=VALUES",
        help="flags without their dashes: 0.1,0.5 are values; with --random, 0.1:1.0 is a range, log:1e-3:1e-1 one on "
        "a logarithmic scale",
    )  # fmt: skip
    parser.add_argument("--random", type=positive, metavar="N", help="draw so many settings, not every combination")
    parser.add_argument("--search_seed", type=int, default=0, help="of these draws (default: 0)")
    parser.add_argument("--seeds", type=count, nargs="+", default=[0, 1, 2], help="of the runs (default: 0 1 2)")
    parser.add_argument("--tune", type=count, metavar="SEED", help="choose by validation with this seed, then run all")
    parser.add_argument("--joint", action="store_true", help="joint training beside it, as what it is compared with")
    parser.add_argument("--rule", choices=RULES, help="of table and plot (default: last; val with --tune)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN", help="of the table, in this order")
    parser.add_argument("--out", default="results", help="folder of all results (default: results)")
    parser.add_argument("--data_root", help="where the data lie, if not where the data set looks by itself")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and run nothing")
    flags, extra = parser.parse_known_args(argv)
    check_extra(extra, "the flags of every run")
    space = read_space(flags.grid, flags.dataset, flags.method)
    settings = every_combination(space) if flags.random is None else draw(space, flags.random, flags.search_seed)
    make = try_all if flags.tune is None else tune
    if not make(flags, extra, settings):
        sys.exit(1)


def try_all(flags: argparse.Namespace, extra: Sequence[str], settings: Sequence[dict[str, str]]) -> bool:
    """Run every setting with every seed, or list the runs; whether none has failed."""
    title = f"{flags.method}: {' and '.join(settings[0])}"
    if flags.random is not None:
        title += f", {len(settings)} settings drawn by search seed {flags.search_seed}"
    wanted = request_of(flags, extra, sweep_of(flags.dataset, flags.method, settings, title, flags.joint), flags.seeds)
    return made(wanted, flags, flags.rule or "last")


def tune(flags: argparse.Namespace, extra: Sequence[str], settings: Sequence[dict[str, str]]) -> bool:
    """Run every setting with one seed, choose by validation, run the choice with every seed; whether none has failed.

    Raises:
        RunError: without a validation split, or if no setting has come to its end.
    """
    if flags.rule not in (None, "val"):
        raise RunError(f"--tune goes by rule val, from the search to the table: leave out --rule {flags.rule}")
    title = f"{flags.method}: {' and '.join(settings[0])}"
    searched = sweep_of(flags.dataset, flags.method, settings, title)
    wanted = request_of(flags, extra, searched, [flags.tune])
    cells = wanted.cells(flags.dataset)
    tuning.check_validation(next(cell.argv[1:] for cell in cells if cell.folder))
    jobs = plan(wanted)
    if flags.list:
        show(jobs)
    failed = {} if flags.list else work_off(jobs, wanted.jobs)
    if waiting := [job for job in jobs if not job.done and job not in failed]:
        say_missing([] if flags.list else jobs, failed)
        print(f"then, when these {len(waiting)} are done, the chosen setting with every seed", file=sys.stderr)
        return not failed
    chosen = tuning.choose(cells)
    if not flags.list:
        say_missing(jobs, failed)
        print(tuning.write(cells, chosen, searched, flags.out))
    title += f"; {chosen.row.label} of {len(settings)} settings, chosen by validation with seed {flags.tune}"
    tuned = sweep_of(flags.dataset, flags.method, [settings[cells.index(chosen)]], title, flags.joint)
    tuned = replace(tuned, name=f"{tuned.name}_tuned", swept=())
    return made(request_of(flags, extra, tuned, flags.seeds), flags, "val") and not failed


def request_of(
    flags: argparse.Namespace, extra: Sequence[str], experiment: Experiment, seeds: Sequence[int]
) -> Request:
    """The runs of an experiment where the command line says.

    Raises:
        RunError: if none of its rows is a command line.
    """
    seeds, roots = list(dict.fromkeys(seeds)), {flags.dataset: flags.data_root}
    wanted = Request(experiment, [flags.dataset], seeds, flags.out, roots, extra, jobs_at_a_time())
    cells = [cell for cell in wanted.cells(flags.dataset) if cell.row != REFERENCE]
    if not any(cell.folder for cell in cells):
        raise RunError(f"no setting of the sweep can be run: {cells[0].refusal}")
    return wanted


def made(wanted: Request, flags: argparse.Namespace, rule: str) -> bool:
    """Make the runs and what is written of them, or list them; whether none has failed."""
    jobs = plan(wanted)
    if flags.list:
        show(jobs)
        return True
    return carry_out(wanted, jobs, rule, flags.columns)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
