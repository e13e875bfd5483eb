"""One HTML page of a folder of results: tables by every rule, accuracies and Fisher traces over the epochs, t-SNE.

    python scripts/report.py results

Writes <folder>/report.html, which needs no server, no network and no script. Tables of experiments are those that
scripts/collect.py --experiment has written to <folder>/tables. Curves are means over a setting's seeds, bands their
range; a t-SNE picture (figures/tsne*.svg or .png of a run) and a confusion matrix are those of the first seed that has
one. The table of a setting's classes is of the last epochs, too.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scripts.drawing.charts import LOGARITHMS, TEXT, Curve, Mark, band, chart, compare
from scripts.experiments.ensembles import ENSEMBLE
from scripts.results.columns import classifies
from scripts.results.folder import Setting, find_runs, tables_of, unlike
from scripts.results.page import KINDS, WIDTHS, class_table, counted, experiment_tables, image, table_of
from scripts.results.tables import RULES, Table, grid, heading, legend
from utils.errors import RunError, one_sentence
from utils.files import make_folder, write_atomically
from utils.runs.files import read_epochs, read_results
from utils.runs.plots import COLOURS


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
    summary = f"{sum(map(len, runs.values()))} finished runs in {root.name}."
    if unfinished:
        names = ", ".join(str(folder.relative_to(root)) for folder in unfinished)
        summary += f" {len(unfinished)} not finished, so not on this page: {names}."
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("report.html").render(
        title=f"Test accuracy of {len(runs)} setting{'s' * (len(runs) > 1)} on {' and '.join(by_dataset)}",
        summary=summary,
        widths=WIDTHS,
        warnings=unlike(runs),
        experiments=experiment_tables(root),
        datasets=[dataset(name, runs_of_set) for name, runs_of_set in by_dataset.items()],
    )


# --- Tables


def dataset(name: str, runs: dict[Setting, list[Path]]) -> dict:
    """What the page has of one data set: all settings in one chart and in tables, then each setting's curves."""
    tables, labels = {}, {}
    for rule in RULES:
        having = {
            # Every run has `last`, but not an ensemble of best.pt.
            s: [folder for folder in folders if (rule == "last" and s[1] != ENSEMBLE) or rule in read_results(folder)]
            for s, folders in runs.items()
        }
        if having := {setting: folders for setting, folders in having.items() if folders}:
            (tables[rule],) = tables_of(having, rule)
            labels = labels or {s: line.label for s, line in zip(having, tables[rule].lines, strict=True)}
    first = next(iter(tables.values()))
    # What is drawn below, and what is the same under every rule, is not in the tables.
    columns = [column for column in first.columns if not column.startswith("window ")]
    found = [replace(table, columns=tuple(columns)) for table in tables.values()]
    return {
        "name": name,
        "notes": first.notes,
        "comparison": comparison(first),
        "tables": [folder_table(replace(table, notes=()), len(runs)) for table in found],
        "settings": [
            {
                "name": labels[setting],
                "figures": figures(folders, modalities_of(first)),
                "classes": class_table(folders),
            }
            for setting, folders in runs.items()
            if setting[1] != ENSEMBLE
        ],
    }


def folder_table(table: Table, settings: int) -> dict:
    """A table of settings, by one rule; `settings`: how many there are by any rule."""
    notes = legend(table)
    if len(table.lines) < settings:
        notes.append("Settings without this rule are not in the table.")
    header, rows = grid(table)
    return table_of(table.rule, heading(table), ["setting", *header[1:]], rows, notes)


def modalities_of(table: Table) -> list[str]:
    """The modalities of a table's runs, in the data set's order."""
    return [name for name in table.columns if f"window {name}" in table.columns]


def comparison(table: Table) -> list[dict]:
    """All settings side by side: accuracies with intervals, and the differences to joint training."""
    names = modalities_of(table)
    colours = {"accuracy": TEXT} | dict(zip(names, cycle(COLOURS), strict=False))
    rows = []
    for line in table.lines:
        marks = []
        for name, colour in colours.items():
            if (mean := line.mean(name)) is None:
                continue
            spread = line.deviation(name) or 0.0
            ends = line.interval if name == "accuracy" and line.interval else (mean - spread, mean + spread)
            marks.append(Mark(mean, *ends, colour, line.control))
        rows.append((line.label, marks))
    rows = [(label, marks) for label, marks in rows if marks]
    if not rows:
        return []
    said = "; ".join(f"{line.label} {line.mean('accuracy'):.1f}" for line in table.lines if line.values("accuracy"))
    seeds = counted(table.seeds)
    bars = "Bars: fused, the 95% bootstrap interval; modalities, one standard deviation over seeds. Hollow: controls."
    charts = [
        {
            "picture": compare(rows, "test accuracy (%)", f"Test accuracy in % of every setting: {said}."),
            "caption": f"Test accuracy, rule {table.rule}, {seeds}. {bars}",
            "key": [("fused" if name == "accuracy" else name, colour) for name, colour in colours.items()],
        }
    ]
    apart = [line for line in table.lines if line.difference]
    if apart:
        rows = [
            (line.label, [Mark(*line.difference, TEXT, line.control)] if line.difference else [])
            for line in table.lines
            if line.values("accuracy")
        ]
        said = "; ".join(f"{line.label} {line.difference[0]:+.1f}" for line in apart)
        against = " or ".join(dict.fromkeys(line.against.label for line in apart))
        words = f"Accuracy less that of {against}, on the same seeds and samples"
        charts.append(
            {
                "picture": compare(rows, "difference (percentage points)", f"{words}, in points: {said}.", zero=True),
                "caption": f"{words}. Bars: the 95% bootstrap interval.",
                "key": [],
            }
        )
    return charts


# --- Curves


def figures(folders: Sequence[Path], modalities: Sequence[str] = ()) -> list[dict]:
    """The pictures of a setting: accuracies, or the modality gap where no classifier is trained, Fisher traces, t-SNE,
    confusion matrix.

    `modalities`: those of the data set, so that each has one colour on the page; by default the setting's own.
    """
    classified = classifies(folders[0])
    columns = ("fisher_trace", "prime_window", "test" if classified else "modality_gap")
    runs = [read_epochs(folder, *columns) for folder in folders]
    # Seeds of unequal length are a mixture that the page warns of; their curves end with the shortest.
    seeds = [rows[: min(map(len, runs))] for rows in runs]
    names = list(seeds[0][0]["fisher_trace"])
    if any(rows[0]["fisher_trace"].keys() != set(names) for rows in seeds):
        raise RunError(f"the runs in {folders[0].parent} are not of the same modalities: move one to another tag")
    by_modality = dict(zip(modalities or names, cycle(COLOURS), strict=False))
    colours = {name: by_modality[name] for name in names}
    opened = {name: [open_share(rows, name) for rows in zip(*seeds, strict=True)] for name in names}
    traces = [
        curve(name, colour, seeds, lambda row, name=name: row["fisher_trace"][name], opened[name], log=True)
        for name, colour in colours.items()
    ]
    windows = "; ".join(f"{name}: {epochs_of(opened[name])}" for name in names)
    return [
        accuracies(seeds, colours) if classified else gaps(seeds, colours),
        {
            "picture": chart(
                traces, "Fisher trace", f"Fisher trace; epochs with an open prime learning window: {windows}.", log=True
            ),
            "caption": f"Fisher trace; {averaged(seeds)}{LOGARITHMS * (len(seeds) > 1)}. Shaded: prime learning "
            f"window, stronger where open in more steps ({windows}).",
            "key": [(one.name, one.colour) for one in traces],
        },
        *pictures(folders),
    ]


def accuracies(seeds: Sequence[Sequence[dict]], colours: dict[str, str]) -> dict:
    """The test accuracy of each epoch, fused and by modality."""
    curves = [
        curve("fused" if name == "accuracy" else name, colour, seeds, lambda row, name=name: 100 * row["test"][name])
        for name, colour in ({"accuracy": TEXT} | colours).items()
    ]
    described = f"Test accuracy in % over {len(seeds[0])} epochs, mean of {len(seeds)} seeds"
    ends = ", ".join(f"{one.name} {one.mean[-1]:.1f}" for one in curves)
    return {
        "picture": chart(curves, "test accuracy (%)", f"{described}; at the end {ends}."),
        "caption": f"Test accuracy; {averaged(seeds)}.",
        "key": [(one.name, one.colour) for one in curves],
    }


def gaps(seeds: Sequence[Sequence[dict]], colours: dict[str, str]) -> dict:
    """The modality gap of each epoch: how far the features of a modality are from those of the others."""
    curves = [
        curve(name, colour, seeds, lambda row, name=name: row["modality_gap"][name]) for name, colour in colours.items()
    ]
    described = f"Modality gap over {len(seeds[0])} epochs, mean of {len(seeds)} seeds"
    ends = ", ".join(f"{one.name} {one.mean[-1]:.3f}" for one in curves)
    top = 1.1 * max(value for one in curves for value in one.high)
    return {
        "picture": chart(curves, "modality gap", f"{described}; at the end {ends}.", top=top or 1),
        "caption": f"Modality gap, the distance between the centres of the modalities' features; {averaged(seeds)}.",
        "key": [(one.name, one.colour) for one in curves],
    }


def curve(
    name: str,
    colour: str,
    seeds: Sequence[Sequence[dict]],
    read: Callable[[dict], float | None],
    opened: Sequence[float] = (),
    log: bool = False,
) -> Curve:
    """One curve of all seeds with its `band`; an epoch in which one of them has no finite value is a gap."""
    by_epoch = [[read(row) for row in rows] for rows in zip(*seeds, strict=True)]
    ends = [None if None in values else [end.item() for end in band(np.array(values), log)] for values in by_epoch]
    return Curve(name, colour, *([None if end is None else end[k] for end in ends] for k in range(3)), open=opened)


def averaged(seeds: Sequence) -> str:
    """What curves show, in words: "1 seed", "mean ± standard deviation of 3 seeds"."""
    return f"mean ± standard deviation of {counted(seeds)}" if len(seeds) > 1 else counted(seeds)


def open_share(rows: Sequence[dict], name: str) -> float:
    """The share of an epoch's steps, in the mean of the seeds, in which the window was open."""
    return statistics.fmean(row["prime_window"][name] for row in rows)


def epochs_of(shares: Sequence[float]) -> str:
    """The epochs, from 1, in which the window was open in some seed: "1-3, 7", or "never"."""
    epochs = [epoch for epoch, share in enumerate(shares, 1) if share]
    stretches = [list(group) for _, group in groupby(epochs, key=lambda epoch: epoch - epochs.index(epoch))]
    return ", ".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in stretches) or "never"


def pictures(folders: Sequence[Path]) -> list[dict]:
    """The t-SNE pictures and the confusion matrix of the first seed that has some, in the page itself."""
    drawn = []
    kinds = [("tsne*", "t-SNE: {}")]
    if classifies(folders[0]):
        kinds.append(("confusion*", "Confusion matrix, last epoch"))
    for pattern, what in kinds:
        # Of a picture in several forms the last by name, .svg.
        found = ({p.stem: p for p in sorted((f / "figures").glob(pattern)) if p.suffix in KINDS} for f in folders)
        for path in next(filter(None, found), {}).values():
            words = f"{what.format(path.stem)}, {path.parts[-3]}"
            drawn.append({"picture": image(path, words), "caption": f"{words}.", "key": []})
    return drawn


if __name__ == "__main__":
    with one_sentence():
        main()
