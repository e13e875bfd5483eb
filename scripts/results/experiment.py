"""The table of one of the paper's experiments, from the runs that there are."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.experiments.cells import Cell, Experiment, Row, cells, setting_of
from scripts.results import tables
from scripts.results.columns import Samples, read_columns
from scripts.results.consistency import Origin, differences
from scripts.results.lines import Line
from scripts.results.places import place_of
from scripts.results.tables import Table
from utils.errors import RunError
from utils.runs.files import read_json, read_metrics, read_results


def write_experiment(
    experiment: Experiment,
    dataset: str,
    seeds: Sequence[int],
    out,
    data_root=None,
    extra: Sequence[str] = (),
    rule: str = "last",
    check: bool = False,
    chosen: Sequence[str] = (),
) -> str:
    """Print and return the Markdown table of an experiment on a data set; write it to <out>/tables in every form.

    `chosen`: the columns to show, in this order; without any, those of the experiment that say something.

    Raises:
        RunError: if the flags are none of the base run on this data set, or with `check`, if the runs are not alike.
    """
    table = of_experiment(experiment, dataset, seeds, out, data_root, extra, rule, chosen)
    if check:
        refuse(table.warnings)
    file = tables.write(table, Path(out) / "tables")
    text = tables.markdown(table)
    print(f"{text}\nwritten: {file}, and as .tex and .csv")
    return text


def of_experiment(
    experiment: Experiment,
    dataset: str,
    seeds: Sequence[int],
    out,
    data_root=None,
    extra: Sequence[str] = (),
    rule: str = "last",
    chosen: Sequence[str] = (),
) -> Table:
    """The table of an experiment, as far as its runs have come.

    Raises:
        RunError: if the flags are none of the base run on this data set.
    """
    columns = experiment.columns_of(setting_of(experiment, dataset, out, data_root, extra))
    of_all = cells(experiment, dataset, seeds, out, data_root, extra)  # seed by seed
    rows = [cell.row for cell in of_all[: len(of_all) // len(seeds)]]
    lines: list[Line] = []
    origins, samples = [], Samples()
    for number, row in enumerate(rows):
        metrics, correct, empty = {}, {}, {}
        for cell in of_all[number :: len(rows)]:
            if why := why_empty(cell, rule):
                empty[cell.seed] = why
                continue
            metrics[cell.seed] = read_columns(cell.folder, rule)
            args = read_json(cell.folder / "args.json")
            origins.append(Origin(f"{row.label} seed {cell.seed}", str(number), args, flags_in(row.flags)))
            if (right := samples.right(cell.folder, rule)) is not None:
                correct[cell.seed] = right
        paper = {column: value for column, value in row.paper.get(dataset, {}).items() if column in columns}
        lines.append(Line(row.label, metrics, empty, correct, paper, row.control))
    joint = [joint_for(number, rows) for number in range(len(rows))]
    lines = [replace(line, against=None if k is None else lines[k]) for line, k in zip(lines, joint, strict=True)]
    told = tuple(differences(origins)), tuple(chosen)
    return Table(experiment.name, experiment.title, dataset, rule, tuple(seeds), columns, tuple(lines), *told)


def why_empty(cell: Cell, rule: str) -> str | None:
    """Why a cell has no metrics by the rule, in a word, or "word: more"; None if it has some.

    Raises:
        RunError: if another run lies in its folder.
    """
    if cell.done:
        place_of(cell.folder)
        result = read_results(cell.folder)
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
    """The names of the flags in a command line."""
    return re.findall(r"(?<!\S)--(\w+)", words)


def joint_for(number: int, rows: Sequence[Row]) -> int | None:
    """The row of joint training with which a row is compared: it shares most flags, and is the plainest of equals.

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
    """Raises RunError that holds the warnings, if there are any."""
    if warnings:
        listed = "\n  ".join(warnings)
        raise RunError(
            f"these runs are not alike, so not of one table (run them again, or leave out --check):\n  {listed}"
        )
