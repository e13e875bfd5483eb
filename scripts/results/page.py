"""What the HTML page shows: a table as its template takes it, pictures, and the experiments that have been written."""

import base64
import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from scripts.drawing.pictures import caption_of
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.classes import ByClass
from scripts.results.columns import classifies
from scripts.results.render import Cell, escape, render
from scripts.results.tables import DOES_NOT_APPLY, MARKS, PAPER, RULES, TESTS, UNMARKED, probability, without_constants
from utils.runs.predictions import read_predictions

KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
WIDTHS = range(20, 84, 4)  # in rem: a page that is narrower says that a table of this class scrolls


def table_of(rule: str, caption: str, header: Sequence[str], rows: Sequence[Sequence], notes: Sequence[str]) -> dict:
    """A table as the page's template takes it."""
    table = Markup(render(header, rows, "html", caption))
    wide = next((width for width in WIDTHS if width >= width_of(header, rows)), WIDTHS[-1])
    return {"rule": rule, "caption": Markup(escape(caption, "html")), "table": table, "notes": notes, "wide": wide}


def width_of(header: Sequence[str], rows: Sequence[Sequence]) -> float:
    """About how wide a table is, in rem: a letter takes 0.47, the sides of a cell 1.2; a row's name breaks."""
    texts = [[str(getattr(cell, "value", cell)).replace("+-", "±") for cell in row] for row in (header, *rows)]
    return 10 + sum(1.2 + 0.47 * max(map(len, column)) for column in list(zip(*texts, strict=True))[1:])


def class_table(folders: Sequence[Path]) -> Markup | None:
    """The classes by the last epochs, means over the seeds; None where runs are older than their probabilities, or
    train no classifier.
    """
    if not classifies(folders[0]):
        return None
    predictions = [read_predictions(folder) for folder in folders]
    seeds = [ByClass.of_run(arrays, "last") for arrays in predictions]
    if None in seeds or any(not np.array_equal(arrays["target"], predictions[0]["target"]) for arrays in predictions):
        return None
    caption = f"Accuracy in % of each class, fused and by modality, and average precision (AP); {counted(seeds)}"
    return Markup(render(*ByClass.mean(seeds).grid(), "html", caption))


def counted(seeds: Sequence) -> str:
    """How many seeds, in words: "1 seed", "3 seeds"."""
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def image(path: Path, words: str) -> Markup:
    """A picture that lies in a file, in the page itself; `words` are what a screen reader says."""
    content = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:{};base64,{}">').format(words, KINDS[path.suffix], content)


def experiment_tables(root: Path) -> list[dict]:
    """{title, figure, tables by rule} of each experiment and data set, from the files that collect.py has written."""
    tables: dict[tuple[str, str], list[dict]] = defaultdict(list)
    titles = {}
    for path in sorted((root / "tables").glob("*.csv")):
        with path.open(newline="") as file:
            entries = list(csv.DictReader(file))
        if entries and "experiment" in entries[0]:  # else of another kind, such as the classes of subsets
            first = entries[0]
            key = first["experiment"], first["dataset"]
            tables[key].append(experiment_table(entries))
            titles[key] = first.get("title") or key[0]
    order = list(EXPERIMENTS)
    known = sorted(tables, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key))
    return [
        {
            "title": f"{titles[name, dataset]}, {dataset}",
            "figures": experiment_figure(root / "figures" / f"{name}_{dataset}.svg"),
            "wide": is_wide(root / "figures" / f"{name}_{dataset}.svg"),
            "tables": sorted(tables[name, dataset], key=lambda table: list(RULES).index(table["rule"])),
        }
        for name, dataset in known
    ]


def experiment_figure(path: Path) -> list[dict]:
    """The figure of an experiment, if it has been drawn."""
    if not path.exists():
        return []
    caption = caption_of(path)
    return [{"picture": image(path, caption or path.stem), "caption": caption, "key": []}]


def is_wide(path: Path) -> bool:
    """Whether the picture is of several panels side by side, which need the page's whole width."""
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', path.read_text()) if path.exists() else None
    return bool(found) and float(found[1]) > 2 * float(found[2])


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
    marked = any(entry["mark"] for entry in entries)
    rows, notes = [], [MARKS if marked else UNMARKED, *([PAPER] if paper else [])]
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
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    header, rows, said = without_constants(header, cells)
    return table_of(rule, caption, header, rows, [*([said] if said else []), *notes])


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
