"""The table of a folder of results, or of one of the paper's experiments with its values beside ours.

    python scripts/collect.py results/GRID --rule last
    python scripts/collect.py --experiment table2 --dataset GRID --seeds 0 1 2 --out results --extra "--epochs 2"

    python scripts/collect.py results --columns accuracy audio visual "p (seeds)"
    python scripts/collect.py results --format csv > runs.csv

Numbers are test accuracies in %. `last` is the last epoch, `val` the epoch that the validation split selects, `oracle`
the best test epoch (the papers' rule: it looks at the test set). In a folder's table each setting is a row, with mean
and standard deviation over its seeds; a linear probe appears where linear_probe.py has run, the ensemble of the
unimodal models where ensemble.py has. An experiment (scripts/experiments/paper.py) has its rows in the paper's order,
done or not, and is written to <out>/tables/<experiment>_<data set>.md, .tex and .csv, too.

A column that is the same in every row is left out and said once below; --columns shows those that it names, in its
order. --format csv is tidy: a row for each run and each rule (or that of --rule), with a column for every flag in which
runs differ, `epoch` counted from 1, and numbers in full.

A table of runs that differ in their data, their code, or their recipe has a warning; with --check it is refused.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset import DATASETS
from engine.hints import one_of
from scripts.experiments.paper import EXPERIMENTS
from scripts.results import tables
from scripts.results.experiment import refuse, write_experiment
from scripts.results.folder import drop_ensembles_without, find_runs, tables_of, tidy, unlike
from scripts.results.render import FORMS, render
from scripts.results.tables import RULES
from utils.errors import RunError, one_sentence


def main(argv: list[str] | None = None) -> str:
    """Print the table and return it.

    Raises:
        RunError: for an experiment or flags that do not exist, and with --check for runs that are not alike.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="a folder that holds runs, at any depth")
    parser.add_argument("--rule", choices=RULES, help="which epoch's metrics (default: last; every rule in CSV)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="NAME", help="these columns alone, in this order")
    parser.add_argument("--format", choices=FORMS, default="md", help="of a folder's table (default: md)")
    parser.add_argument("--check", action="store_true", help="refuse runs of different data, code or recipes")
    group = parser.add_argument_group("instead of a folder, one experiment")
    group.add_argument("--experiment", choices=EXPERIMENTS, help="its name")
    group.add_argument(
        "--dataset", choices=DATASETS, type=one_of(DATASETS), help="on which data set (default: the paper's first)"
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of its runs (default: 0 1 2)")
    group.add_argument("--out", default="results", help="folder of all results (default: results)")
    group.add_argument("--data_root", help="of its runs, if they had one")
    group.add_argument("--extra", type=shlex.split, default=[], help="the flags that all its runs had, in one word")
    args = parser.parse_args(argv)
    if (args.results is None) == (args.experiment is None):
        parser.error("give either a folder of results or --experiment")
    if args.experiment:
        experiment = EXPERIMENTS[args.experiment]
        places = (list(dict.fromkeys(args.seeds)), args.out, args.data_root, args.extra)
        return write_experiment(
            experiment, args.dataset or experiment.datasets[0], *places, args.rule or "last", args.check, args.columns
        )
    return of_folder(args.results, args.rule, args.check, args.format, args.columns)


def of_folder(root: Path, rule: str | None, check: bool = False, form: str = "md", columns: Sequence[str] = ()) -> str:
    """Print and return the tables of all finished runs below a folder, as Markdown or in another of FORMS.

    Without a rule it is `last`; in CSV each that a run has.

    Raises:
        RunError: if there is no finished run, or none with this rule; with `check`, if those of a data set differ.
    """
    every = form == "csv" and rule is None
    runs, unfinished = find_runs(root.resolve())
    rule = rule or "last"
    runs, without = (runs, []) if every else drop_ensembles_without(rule, runs)
    if not runs:
        raise RunError(f"no finished run below {root}" + (f" with rule {rule!r}" if without else ""))
    warnings = unlike(runs)
    if check:
        refuse(warnings)
    notes = [f"Warning: {warning}" for warning in warnings]
    for why, folders in {"Not finished": unfinished, f"Ensembles without rule `{rule}`": without}.items():
        if folders:
            notes.append(f"{why}, so not in the table: " + ", ".join(str(folder) for folder in folders))
    if form == "csv":
        table = render(*tidy(runs, list(RULES) if every else [rule]), "csv")
    else:
        table = "\n".join(tables.write_as(table, form) for table in tables_of(runs, rule, columns))
    if form == "md":
        table += "".join(f"\n{note}\n" for note in notes)
    else:  # for another program to read
        print("\n".join(notes), file=sys.stderr)
    print(table)
    return table


if __name__ == "__main__":
    with one_sentence():
        main()
