"""The finished runs below a folder, by their setting: a row each, whatever they are."""

import csv
import io
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from methods import METHODS
from scripts.results import tables
from scripts.results.consistency import Origin, differences
from utils.runs.files import read_json, read_metrics

ENSEMBLE = "ensemble"  # the row that no run has trained (ensemble.py)
ROWS = ("unimodal", ENSEMBLE, *(name for name in METHODS if name != "unimodal"))  # the controls first


def find_runs(root: Path) -> tuple[dict[tuple[str, str, str], list[Path]], list[Path]]:
    """{(dataset, method, tag): folders of its finished seeds} in the order of ROWS, and the unfinished folders."""
    runs: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    unfinished = []
    for file in sorted(root.rglob("args.json")):
        folder = file.parent
        if (folder / "done").exists():
            runs[tuple(folder.parts[-4:-1])].append(folder)
        else:
            unfinished.append(folder)

    def place(setting: tuple[str, str, str]) -> tuple:
        dataset, method, tag = setting
        return dataset, ROWS.index(method) if method in ROWS else len(ROWS), method, tag

    return {setting: runs[setting] for setting in sorted(runs, key=place)}, unfinished


def drop_ensembles_without(rule: str, runs: dict) -> tuple[dict[tuple[str, str, str], list[Path]], list[Path]]:
    """`runs` without the ensembles that have no figures by `rule` (none has an oracle: it has no epochs), and those."""
    without = [
        folder
        for (_, method, _), folders in runs.items()
        if method == ENSEMBLE
        for folder in folders
        if rule not in read_json(folder / "result.json")
    ]
    kept = {setting: [folder for folder in folders if folder not in without] for setting, folders in runs.items()}
    return {setting: folders for setting, folders in kept.items() if folders}, without


def make_latex(runs: dict[tuple[str, str, str], list[Path]], rule: str) -> str:
    header, rows, seeds = make_grid(runs, rule)
    caption = f"Test figures in %, rule {rule}: {tables.RULES[rule]}; {seeds} seed(s), mean +- standard deviation."
    cells = [[tables.latex_text(text) for text in row] for row in rows]
    return tables.latex_frame(caption, header, cells)


def make_csv(runs: dict[tuple[str, str, str], list[Path]], rule: str) -> str:
    """One line a setting and figure, in full precision; without a deviation where there is one seed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow("dataset method setting rule column seeds values mean deviation".split())
    for setting, folders in runs.items():
        found = {folder.name.removeprefix("seed"): figures_of(folder, rule) for folder in folders}
        for column in dict.fromkeys(name for figures in found.values() for name in figures):
            values = {seed: figures[column] for seed, figures in found.items() if column in figures}
            spread = statistics.stdev(values.values()) if len(values) > 1 else None
            each = " ".join(map(repr, values.values()))
            writer.writerow([*setting, rule, column, " ".join(values), each, statistics.mean(values.values()), spread])
    return file.getvalue()


def make_table(runs: dict[tuple[str, str, str], list[Path]], rule: str) -> str:
    """Markdown. A cell that no run can fill is a dash: a unimodal run has one modality, a window may never open."""
    header, rows, seeds = make_grid(runs, rule)
    lines = [
        f"Test figures, rule `{rule}`, {seeds} seed(s), mean +- standard deviation.",
        "",
        "| " + " | ".join(header) + " |",
        "| --- " * len(header) + "|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def make_grid(runs: dict[tuple[str, str, str], list[Path]], rule: str) -> tuple[list[str], list[list[str]], str]:
    """The header, the rows, and the number of seeds in words."""
    rows = {setting: [read_run(folder, rule) for folder in folders] for setting, folders in runs.items()}
    columns = list(dict.fromkeys(name for seeds in rows.values() for seed in seeds for name in seed))
    count = {len(seeds) for seeds in rows.values()}
    seeds = str(count.pop()) if len(count) == 1 else f"{min(count)} to {max(count)}"
    cells = [
        [*setting, str(len(found)), *(cell([seed[name] for seed in found if name in seed]) for name in columns)]
        for setting, found in rows.items()
    ]
    return ["data set", "method", "setting", "seeds", *columns], cells, seeds


def read_run(folder: Path, rule: str) -> dict[str, float | str]:
    """The columns of one run: accuracies in %, probes in %, and the epochs (from 1) with an open window.

    An ensemble has no epochs, so no windows.
    """
    if rule not in read_json(folder / "result.json"):
        sys.exit(f"error: {folder} has no rule {rule!r}: it was trained without --val_fraction")
    figures = figures_of(folder, rule)
    columns: dict[str, float | str] = {"accuracy": figures.pop("accuracy"), "macro_f1": figures.pop("macro_f1")}
    columns |= figures
    if folder.parts[-3] == ENSEMBLE:
        return columns
    metrics = read_metrics(folder / "metrics.jsonl")
    for name in metrics[0]["prime_window"]:
        opened = [str(row["epoch"] + 1) for row in metrics if row["prime_window"][name]]
        columns[f"window {name}"] = " ".join(opened) or "never"
    return columns


def figures_of(folder: Path, rule: str) -> dict[str, float]:
    """Accuracies and probes of a finished run, in %."""
    result = read_json(folder / "result.json")[rule]
    figures = {name: 100 * value for name, value in result.items() if name not in ("epoch", "loss")}
    probes = folder / "probe.json"
    if probes.exists():
        figures |= {f"probe {name}": 100 * value for name, value in read_json(probes).items()}
    return figures


def cell(values: list[float | str]) -> str:
    if not values:
        return "-"
    if isinstance(values[0], str):
        return "; ".join(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.1f}"


def unlike(runs: dict[tuple[str, str, str], list[Path]]) -> list[str]:
    """In what the runs of each data set differ, beside the flags that their tags name."""
    origins: dict[str, list[Origin]] = defaultdict(list)
    for (dataset, method, tag), folders in runs.items():
        for folder in folders:
            args = read_json(folder / "args.json")
            named = [flag for flag in args if re.search(rf"(^|_){flag}=", tag)]
            origins[dataset].append(Origin(f"{method}/{tag}/{folder.name}", f"{method}/{tag}", args, named))
    return [f"{dataset}: {sentence}" for dataset, found in origins.items() for sentence in differences(found)]
