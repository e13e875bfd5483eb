"""The table of a folder of results, or of one of the paper's experiments with its values beside ours.

    python scripts/collect.py results/GRID --rule last
    python scripts/collect.py --experiment table2 --dataset GRID --seeds 0 1 2 --out results --extra "--epochs 2"

Figures are test accuracies in %. `last` is the last epoch, `val` the epoch that the validation split selects, `oracle`
the best test epoch (the papers' rule: it looks at the test set). Of a folder, each setting is a row, with mean and
standard deviation over its seeds; a linear probe appears where linear_probe.py has run, the ensemble of the unimodal
models where ensemble.py has. An experiment (scripts/experiments/paper.py) has its rows in the paper's order, done or
not, and is written to <out>/tables/<experiment>_<data set>.md, .tex and .csv, too.

A table of runs that differ in their data, their code, or their recipe has a warning; with --check it is refused.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset import DATASETS
from scripts.experiments import paper as experiments
from scripts.results import tables
from scripts.results.consistency import Origin, differences
from scripts.results.folder import (
    drop_ensembles_without,
    figures_of,
    find_runs,
    make_csv,
    make_latex,
    make_table,
    unlike,
)
from scripts.results.tables import RULES, Line, Table
from utils.errors import RunError, one_sentence
from utils.runs.files import read_json, read_metrics, read_predictions

FORMS = {"md": make_table, "tex": make_latex, "csv": make_csv}


def main(argv: list[str] | None = None) -> str:
    """Print the table and return it.

    Raises:
        RunError: for an experiment or flags that do not exist, and with --check for runs that are not alike.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="a folder that holds runs, at any depth")
    parser.add_argument("--rule", choices=RULES, default="last", help="which epoch's figures (default: last)")
    parser.add_argument("--format", choices=FORMS, default="md", help="of a folder's table (default: md)")
    parser.add_argument("--check", action="store_true", help="refuse runs of different data, code or recipes")
    group = parser.add_argument_group("instead of a folder, one experiment")
    group.add_argument("--experiment", choices=experiments.EXPERIMENTS, help="its name")
    group.add_argument("--dataset", choices=DATASETS, help="on which data set (default: the paper's first)")
    group.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of its runs (default: 0 1 2)")
    group.add_argument("--out", default="results", help="folder of all results (default: results)")
    group.add_argument("--data_root", help="of its runs, if they had one")
    group.add_argument("--extra", type=shlex.split, default=[], help="the flags that all its runs had, in one word")
    args = parser.parse_args(argv)
    if (args.results is None) == (args.experiment is None):
        parser.error("give either a folder of results or --experiment")
    if args.experiment:
        dataset = args.dataset or experiments.EXPERIMENTS[args.experiment].datasets[0]
        places = (list(dict.fromkeys(args.seeds)), args.out, args.data_root, args.extra)
        return write_experiment(args.experiment, dataset, *places, args.rule, args.check)
    return of_folder(args.results, args.rule, args.check, args.format)


# --- An experiment


def write_experiment(
    name: str,
    dataset: str,
    seeds: Sequence[int],
    out,
    data_root=None,
    extra: Sequence[str] = (),
    rule: str = "last",
    check: bool = False,
) -> str:
    """Print and return the Markdown table of an experiment on a data set; write it to <out>/tables in every form.

    Raises:
        RunError: if the flags are none of joint training on this data set, or with `check`, if the runs are not alike.
    """
    table = of_experiment(name, dataset, seeds, out, data_root, extra, rule)
    if check:
        refuse(table.warnings)
    file = tables.write(table, Path(out) / "tables")
    text = tables.markdown(table)
    print(f"{text}\nwritten: {file}, and as .tex and .csv")
    return text


def of_experiment(
    name: str, dataset: str, seeds: Sequence[int], out, data_root=None, extra: Sequence[str] = (), rule: str = "last"
) -> Table:
    """What the runs of an experiment have come to so far.

    Raises:
        RunError: if the flags are none of joint training on this data set.
    """
    experiment = experiments.EXPERIMENTS[name]
    columns = experiment.columns_of(experiments.setting_of(experiment, dataset, out, data_root, extra))
    cells = experiments.cells(experiment, dataset, seeds, out, data_root, extra)  # seed by seed
    rows = [cell.row for cell in cells[: len(cells) // len(seeds)]]
    lines: list[Line] = []
    origins, target = [], None
    for number, row in enumerate(rows):
        figures, correct, empty = {}, {}, {}
        for cell in cells[number :: len(rows)]:
            if why := why_empty(cell, rule):
                empty[cell.seed] = why
                continue
            figures[cell.seed] = figures_of(cell.folder, rule)
            args = read_json(cell.folder / "args.json")
            origins.append(Origin(f"{row.label} seed {cell.seed}", str(number), args, flags_in(row.flags)))
            found = read_predictions(cell.folder)
            target = found.get("target") if target is None else target
            if rule in found and np.array_equal(found["target"], target):
                correct[cell.seed] = found[rule] == target
        paper = {column: value for column, value in row.paper.get(dataset, {}).items() if column in columns}
        lines.append(Line(row.label, figures, empty, correct, paper, row.control))
    joint = [joint_for(number, rows) for number in range(len(rows))]
    lines = [replace(line, against=None if k is None else lines[k]) for line, k in zip(lines, joint, strict=True)]
    return Table(
        name, experiment.title, dataset, rule, tuple(seeds), columns, tuple(lines), tuple(differences(origins))
    )


def why_empty(cell: experiments.Cell, rule: str) -> str | None:
    """Why a cell has no figures by the rule, in a word, or "word: more"; None if it has."""
    if cell.done:
        result = read_json(cell.folder / "result.json")
        return None if rule in result else f"no {rule}: the run chose by {', '.join(result)} only"
    why = " ".join(cell.missing().split())
    if cell.refusal:
        return f"does not apply: {why}"
    if why.startswith("running"):
        return why
    if why != "not run":
        return f"failed: {why}"
    metrics = cell.folder / "metrics.jsonl"  # of a run that was started by hand, which keeps no log
    return f"stopped: after epoch {len(read_metrics(metrics))}" if metrics.exists() else why


def flags_in(words: str) -> list[str]:
    return re.findall(r"(?<!\S)--(\w+)", words)


def joint_for(number: int, rows: Sequence[experiments.Row]) -> int | None:
    """The row of joint training that a row is compared with: the one of most flags in common, the plainest of equals.

    A row of joint training is compared with one whose flags it adds to. Where none is plainer than the others, as with
    one for each fusion, there is nothing to compare with.
    """
    flags = [{words.strip() for words in row.flags.split("--")} for row in rows]
    joint = [k for k, said in enumerate(flags) if "method joint" in said]
    if number in joint:
        nearest = [k for k in joint if flags[k] < flags[number]]
    else:
        shared = {k: len(flags[k] & flags[number]) for k in joint}
        nearest = [k for k in joint if shared[k] == max(shared.values(), default=0)]
    return next((k for k in nearest if all(flags[k] <= flags[other] for other in nearest)), None)


def refuse(warnings: Sequence[str]) -> None:
    """Raises RunError if there are any."""
    if warnings:
        found = "\n  ".join(warnings)
        raise RunError(
            f"these runs are not alike, so not of one table (run them again, or leave out --check):\n  {found}"
        )


# --- A folder


def of_folder(root: Path, rule: str, check: bool = False, form: str = "md") -> str:
    """Print and return the table of all finished runs below a folder, as Markdown or in another of FORMS.

    Raises:
        RunError: with `check`, if the runs of a data set are not alike.
    """
    runs, unfinished = find_runs(root.resolve())
    runs, without = drop_ensembles_without(rule, runs)
    if not runs:
        sys.exit(f"error: no finished run below {root}" + (f" with rule {rule!r}" if without else ""))
    warnings = unlike(runs)
    if check:
        refuse(warnings)
    notes = [f"Warning: {warning}" for warning in warnings]
    for why, folders in {"Not finished": unfinished, f"Ensembles without rule `{rule}`": without}.items():
        if folders:
            notes.append(f"{why}, so not in the table: " + ", ".join(str(folder) for folder in folders))
    table = FORMS[form](runs, rule)
    if form == "md":
        table += "".join(f"\n{note}\n" for note in notes)
    else:  # for another program to read
        print("\n".join(notes), file=sys.stderr)
    print(table)
    return table


if __name__ == "__main__":
    with one_sentence():
        main()
