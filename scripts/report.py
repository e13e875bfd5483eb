"""One HTML page of a folder of results: tables by every rule, accuracies and Fisher traces over the epochs, t-SNE.

    python scripts/report.py results

Writes <folder>/report.html, which needs no server, no network and no script. Tables of experiments are those that
scripts/collect.py --experiment has written to <folder>/tables. Curves are means over a setting's seeds, bands their
range; a t-SNE picture (figures/tsne*.svg or .png of a run) and a confusion matrix are those of the first seed that has
one. The table of a setting's classes is of the last epochs, too.
"""

import argparse
import base64
import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scripts.drawing.charts import TEXT, Curve, chart
from scripts.experiments.ensembles import ENSEMBLE
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.classes import ByClass
from scripts.results.folder import Setting, find_runs, make_grid, unlike
from scripts.results.render import Cell, escape, render
from scripts.results.tables import DOES_NOT_APPLY, MARKS, PAPER, RULES, TESTS, probability
from utils.errors import RunError, one_sentence
from utils.files import make_folder, write_atomically
from utils.runs.files import read_json, read_metrics
from utils.runs.plots import COLOURS
from utils.runs.predictions import read_predictions

KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


def main(argv: list[str] | None = None) -> Path:
    """Write the page; returns its path.

    Raises:
        RunError: if the folder holds no finished run, or the page cannot be written.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a folder that holds runs, at any depth")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html in the folder)")
    args = parser.parse_args(argv)
    out = args.out or args.results / "report.html"
    make_folder(out.parent)
    write_atomically(out, page(args.results.resolve()))
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return out


def page(root: Path) -> str:
    """The page of all finished runs below `root`."""
    runs, unfinished = find_runs(root)
    if not runs:
        raise RunError(f"no finished run below {root}")
    by_dataset: dict[str, dict] = defaultdict(dict)
    for setting, folders in runs.items():
        by_dataset[setting[0]][setting] = folders
    summary = f"{sum(map(len, runs.values()))} finished runs of {len(runs)} settings."
    if unfinished:
        names = ", ".join(str(folder.relative_to(root)) for folder in unfinished)
        summary += f" {len(unfinished)} not finished, so not on this page: {names}."
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("report.html").render(
        title=f"Results in {root.name}",
        summary=summary,
        warnings=unlike(runs),
        experiments=experiment_tables(root / "tables"),
        datasets=[
            {"name": name, "tables": folder_tables(runs_of_set), "settings": settings(runs_of_set)}
            for name, runs_of_set in by_dataset.items()
        ],
    )


# --- Tables


def folder_tables(runs: dict[Setting, list[Path]]) -> list[dict]:
    """A table of one data set's settings for each rule that a run has; runs without a rule are not in its table."""
    tables = []
    for rule, meaning in RULES.items():
        having = {
            setting: [folder for folder in folders if rule in read_json(folder / "result.json")]
            for setting, folders in runs.items()
        }
        having = {setting: folders for setting, folders in having.items() if folders}
        if having:
            header, rows, seeds = make_grid(having, rule)
            caption = f"Rule {rule}: {meaning}; {seeds} seed(s); test metrics in %, mean +- standard deviation"
            shown = [k for k, name in enumerate(header) if k > 2 and not name.startswith("window ")]  # the charts' part
            values = [[f"{row[1]}, {row[2]}", *(row[k] for k in shown)] for row in rows]
            notes = [] if len(having) == len(runs) else ["Settings without this rule are not in the table."]
            tables.append(table_of(rule, caption, ["setting", *(header[k] for k in shown)], values, notes))
    return tables


def table_of(rule: str, caption: str, header: Sequence[str], rows: Sequence[Sequence], notes: Sequence[str]) -> dict:
    """A table as the page's template takes it."""
    table = Markup(render(header, rows, "html", caption))
    return {"rule": rule, "caption": Markup(escape(caption, "html")), "table": table, "notes": notes}


def experiment_tables(folder: Path) -> list[dict]:
    """{title, tables by rule} of each experiment and data set, from the .csv files that collect.py has written."""
    tables: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            entries = list(csv.DictReader(file))
        if entries:
            first = entries[0]
            tables[first["experiment"], first["dataset"]].append(experiment_table(entries))
    order = list(EXPERIMENTS)
    known = sorted(tables, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key))
    return [
        {
            "title": f"{EXPERIMENTS[name].title if name in EXPERIMENTS else name}, {dataset}",
            "tables": sorted(tables[name, dataset], key=lambda table: list(RULES).index(table["rule"])),
        }
        for name, dataset in known
    ]


def experiment_table(entries: Sequence[dict[str, str]]) -> dict:
    """One table from the lines of its .csv file (scripts/results/tables.py): those of a row stand side by side."""
    rule, samples = entries[0]["rule"], entries[0]["samples"]
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    paper = {entry["column"] for entry in entries if entry["paper"]}
    references = sorted({entry["against"] for entry in entries if entry["against"]})
    compares = "accuracy" in columns
    header = ["row", "seeds"]
    for column in columns:
        header += [column, f"{column}, paper"] if column in paper else [column]
    if compares:
        header += ["95% interval", *(["against"] if len(references) > 1 else []), "p (seeds)", "p (samples)"]
    count = len(entries) // len(columns)
    rows, notes = [], [MARKS, *([PAPER] if paper else [])]
    if compares:
        notes.append(f"95% interval: of the accuracy, by a bootstrap. Against {' or '.join(references)}: {TESTS}")
    for of_row in (entries[k::count] for k in range(count)):  # one a column
        row = [of_row[0]["row"], str(max(len(entry["seeds"].split()) for entry in of_row))]
        for entry in of_row:
            row.append(Cell(measured(entry), entry["mark"]))
            if entry["column"] in paper:
                row.append(published(entry))
        if compares:
            row += tests_of(of_row[columns.index("accuracy")], len(references) > 1)
        rows.append(row)
        notes += [f"{of_row[0]['row']}: {of_row[0]['empty']}"] if of_row[0]["empty"] else []
    caption = f"Rule {rule}: {RULES[rule]}; test metrics in %, mean +- standard deviation over seeds"
    caption += f"; {samples} test samples" if samples else ""
    return table_of(rule, caption, header, rows, notes)


def tests_of(entry: dict[str, str], named: bool) -> list[str]:
    """The interval and the tests of the accuracy; `named`: between them what it is compared with."""
    width = f"{float(entry['low']):.1f} to {float(entry['high']):.1f}" if entry["low"] else DOES_NOT_APPLY
    p = [probability(float(entry[name]) if entry[name] else None) for name in ("p_seeds", "p_samples")]
    return [width, *([entry["against"] or DOES_NOT_APPLY] if named else []), *p]


def measured(entry: dict[str, str]) -> str:
    """Mean and deviation, or that there is no run."""
    if not entry["mean"]:
        return "no run" if entry["empty"] else DOES_NOT_APPLY
    return f"{float(entry['mean']):.1f}" + (f" +- {float(entry['deviation']):.1f}" if entry["deviation"] else "")


def published(entry: dict[str, str]) -> str:
    """The paper's value and, in brackets, ours minus it."""
    if not entry["paper"]:
        return DOES_NOT_APPLY
    return f"{float(entry['paper']):.2f}" + (f" ({float(entry['difference']):+.1f})" if entry["difference"] else "")


# --- Curves


def settings(runs: dict[Setting, list[Path]]) -> list[dict]:
    """{name, its pictures, its table of classes} of each setting that has epochs."""
    return [
        {"name": f"{method}, {tag}", "figures": figures(folders), "classes": class_table(folders)}
        for (_, method, tag), folders in runs.items()
        if method != ENSEMBLE
    ]


def class_table(folders: Sequence[Path]) -> Markup | None:
    """The classes by the last epochs, means over the seeds; None where runs are older than their probabilities."""
    predictions = [read_predictions(folder) for folder in folders]
    seeds = [ByClass.of_run(arrays, "last") for arrays in predictions]
    if None in seeds or any(not np.array_equal(arrays["target"], predictions[0]["target"]) for arrays in predictions):
        return None
    caption = f"Accuracy in % of each class, fused and by modality, and average precision (AP); {len(seeds)} seed(s)"
    return Markup(render(*ByClass.mean(seeds).grid(), "html", caption))


def figures(folders: Sequence[Path]) -> list[dict]:
    """The pictures of a setting: accuracies, Fisher traces, t-SNE, confusion matrix."""
    runs = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    # Seeds of unequal length are a mixture that the page warns of; their curves end with the shortest.
    seeds = [rows[: min(map(len, runs))] for rows in runs]
    names = list(seeds[0][0]["fisher_trace"])
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    accuracy = [
        curve("fused" if name == "accuracy" else name, colour, seeds, lambda row, name=name: 100 * row["test"][name])
        for name, colour in ({"accuracy": TEXT} | colours).items()
    ]
    opened = {name: [open_share(rows, name) for rows in zip(*seeds, strict=True)] for name in names}
    traces = [
        curve(name, colour, seeds, lambda row, name=name: row["fisher_trace"][name], opened[name])
        for name, colour in colours.items()
    ]
    described = f"Test accuracy in % over {len(seeds[0])} epochs, mean of {len(seeds)} seeds"
    ends = ", ".join(f"{one.name} {one.mean[-1]:.1f}" for one in accuracy)
    windows = "; ".join(f"{name}: {epochs_of(opened[name])}" for name in names)
    return [
        {
            "picture": chart(accuracy, "test accuracy (%)", f"{described}; at the end {ends}."),
            "caption": f"Test accuracy; {len(seeds)} seed(s).",
            "key": [(one.name, one.colour) for one in accuracy],
        },
        {
            "picture": chart(
                traces, "Fisher trace", f"Fisher trace; epochs with an open prime learning window: {windows}.", log=True
            ),
            "caption": f"Fisher trace; shaded: prime learning window, stronger where open in more seeds ({windows}).",
            "key": [(one.name, one.colour) for one in traces],
        },
        *pictures(folders),
    ]


def curve(
    name: str, colour: str, seeds: Sequence[Sequence[dict]], read: Callable[[dict], float | None], opened=()
) -> Curve:
    """One curve of all seeds; an epoch in which one of them has no finite value is a gap."""
    by_epoch = [[read(row) for row in rows] for rows in zip(*seeds, strict=True)]
    ends = [None if None in values else (statistics.fmean(values), min(values), max(values)) for values in by_epoch]
    return Curve(name, colour, *([None if end is None else end[k] for end in ends] for k in range(3)), open=opened)


def open_share(rows: Sequence[dict], name: str) -> float:
    """The share of the seeds whose window was open in an epoch."""
    return statistics.fmean(row["prime_window"][name] for row in rows)


def epochs_of(shares: Sequence[float]) -> str:
    """The epochs, from 1, in which the window was open in some seed: "1-3, 7", or "never"."""
    epochs = [epoch for epoch, share in enumerate(shares, 1) if share]
    stretches = [list(group) for _, group in groupby(epochs, key=lambda epoch: epoch - epochs.index(epoch))]
    return ", ".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in stretches) or "never"


def pictures(folders: Sequence[Path]) -> list[dict]:
    """The t-SNE pictures and the confusion matrix of the first seed that has some, in the page itself."""
    drawn = []
    for pattern, what in (("tsne*", "t-SNE: {}"), ("confusion.png", "Confusion matrix, last epoch")):
        found = ([path for path in sorted((f / "figures").glob(pattern)) if path.suffix in KINDS] for f in folders)
        drawn += [
            {
                "picture": Markup('<img alt="{}" src="data:{};base64,{}">').format(
                    f"{what.format(path.stem)}, {path.parts[-3]}",
                    KINDS[path.suffix],
                    base64.b64encode(path.read_bytes()).decode(),
                ),
                "caption": f"{what.format(path.stem)}, {path.parts[-3]}.",
                "key": [],
            }
            for path in next(filter(None, found), [])
        ]
    return drawn


if __name__ == "__main__":
    with one_sentence():
        main()
