"""Does it matter which samples are labelled? Strategies x budgets x seeds x methods, on one data set.

    python scripts/subsets.py --dataset CREMAD --budgets 120 300 600 1200
    bash scripts/reproduce.sh selection --dataset CREMAD --budgets 120 300 --strategies random kmeans mmcsal

Pretrains without labels (scripts/pretrain.py), once a seed with and once without prototypes; chooses samples
(scripts/select_subset.py); trains every method on each list, and on all samples. Further flags, as --lr 0.01, are for
every run. Strategies without labels go by the same features; `-no-prototypes` after their name takes those of matching
alone, and `mmcsal-no-alignment` leaves out the alignment. entropy, badge, bmmal and coreset-rounds go by rounds: from
the smallest budget on, which --first chooses, the run on one budget says which samples are added for the next.

Writes <out>/tables/selection_<dataset>.md with all accuracies and the modality that dominates, selection_compared with
the differences between strategies and between methods, selection_subsets with the modality gap and what the subsets are
like, a .csv with the share of each class in them, and <out>/figures/selection_<dataset>.svg, all of it over the
budgets. What is done is kept: the same command goes on. JOBS in the environment says how many runs at a time.
"""

import argparse
import shlex
import signal
import sys

from dataset import DATASETS
from engine.hints import one_of
from methods import METHODS
from scripts.experiments.jobs import Job
from scripts.experiments.request import carry_out, check_extra, jobs_at_a_time, show
from scripts.experiments.subsets import NAMES, Study
from scripts.results.compared import write_compared
from scripts.results.subsets import write_subsets
from scripts.results.tables import RULES
from utils.errors import one_sentence
from utils.numbers import count, positive


def main(argv: list[str] | None = None) -> None:
    """Make what is missing, and write it. Ends with status 1 if something has failed.

    Raises:
        RunError: for a strategy or flags that do not exist.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, type=one_of(DATASETS), required=True, help="the pool is its training split"
    )
    parser.add_argument("--data_root", help="where the data lie, if not where the data set looks by itself")
    parser.add_argument("--budgets", type=positive, nargs="+", required=True, metavar="N", help="how many labels")
    parser.add_argument(
        "--strategies", nargs="+", default=list(NAMES), metavar="NAME", help=f"default: {' '.join(NAMES)}"
    )
    parser.add_argument(
        "--methods", choices=METHODS, type=one_of(METHODS), nargs="+", default=["joint", "inforeg"], metavar="NAME",
        help="how to train on the lists (default: joint inforeg)",
    )  # fmt: skip
    parser.add_argument("--first", default="random", metavar="NAME", help="strategy of round 0 (default: random)")
    parser.add_argument("--seeds", type=count, nargs="+", default=[0, 1, 2], help="of all of it (default: 0 1 2)")
    parser.add_argument(
        "--pretraining", type=shlex.split, default=[], metavar="FLAGS",
        help="more flags of the runs without labels, in one word: --pretraining='--epochs 20 --lr 0.1'",
    )  # fmt: skip
    parser.add_argument("--start", action="store_true", help="begin training with the pretrained encoders")
    parser.add_argument("--rule", choices=RULES, default="last", help="of table and picture (default: last)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN", help="of the table, in this order")
    parser.add_argument("--out", default="results", help="folder of all results (default: results)")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and run nothing")
    flags, extra = parser.parse_known_args(argv)
    check_extra([*extra, *flags.pretraining], "the flags of every run", ("--train_list",))
    budgets, seeds = sorted(set(flags.budgets)), list(dict.fromkeys(flags.seeds))
    study = Study(
        flags.dataset, flags.data_root, flags.out, list(dict.fromkeys(flags.strategies)), budgets,
        list(dict.fromkeys(flags.methods)), seeds, extra, flags.pretraining, flags.start, flags.first,
        jobs_at_a_time(),
    )  # fmt: skip
    jobs = study.all_jobs()
    if flags.list:
        show(jobs)
    elif not made(study, jobs, flags):
        sys.exit(1)


def made(study: Study, jobs: list[Job], flags: argparse.Namespace) -> bool:
    """Do all jobs, and write what came of them; whether none has failed."""
    wanted = study.request()
    good = carry_out(wanted, jobs, flags.rule, flags.columns)
    print(f"written: {write_compared(study, wanted, flags.rule)}")
    print(f"written: {write_subsets(study, wanted.experiment.name)}, and as .csv the share of each class")
    from scripts.drawing.subsets import draw_subsets  # here, since tables need no matplotlib

    if picture := draw_subsets(study, wanted, flags.rule):
        print(f"written: {picture}")
    return good


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
