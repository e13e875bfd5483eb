"""The table of a folder: a row for each setting of which there are finished runs."""

import re
import statistics
from collections import defaultdict
from pathlib import Path

from methods import METHODS
from scripts.experiments.ensembles import ENSEMBLE
from scripts.results.consistency import Origin, differences
from scripts.results.render import render
from scripts.results.tables import RULES
from utils.errors import RunError
from utils.runs.files import read_json, read_metrics
from utils.runs.regulation import regulated

Setting = tuple[str, str, str]  # data set, method, tag
ROWS = ("unimodal", ENSEMBLE, *(name for name in METHODS if name != "unimodal"))  # the controls first


def find_runs(root: Path) -> tuple[dict[Setting, list[Path]], list[Path]]:
    """{(dataset, method, tag): folders of its finished seeds} in the order of ROWS, and the unfinished folders."""
    runs: dict[Setting, list[Path]] = defaultdict(list)
    unfinished = []
    for file in sorted(root.rglob("args.json")):
        folder = file.parent
        if (folder / "done").exists():
            runs[tuple(folder.parts[-4:-1])].append(folder)
        else:
            unfinished.append(folder)

    def place(setting: Setting) -> tuple:
        dataset, method, tag = setting
        return dataset, ROWS.index(method) if method in ROWS else len(ROWS), method, tag

    return {setting: runs[setting] for setting in sorted(runs, key=place)}, unfinished


def drop_ensembles_without(rule: str, runs: dict) -> tuple[dict[Setting, list[Path]], list[Path]]:
    """`runs` without the ensembles that have no metrics by `rule`, and the folders of these ensembles.

    None has an oracle, since it has no epochs.
    """
    without = [
        folder
        for (_, method, _), folders in runs.items()
        if method == ENSEMBLE
        for folder in folders
        if rule not in read_json(folder / "result.json")
    ]
    kept = {setting: [folder for folder in folders if folder not in without] for setting, folders in runs.items()}
    return {setting: folders for setting, folders in kept.items() if folders}, without


def write_runs(runs: dict[Setting, list[Path]], rule: str, form: str) -> str:
    """The table in a form of render.py. A dash: no run can fill the cell (a window may never open)."""
    if form == "csv":
        return render(*every_value(runs, rule), "csv")
    header, rows, seeds = make_grid(runs, rule)
    if form == "md":
        heading = f"Test metrics, rule `{rule}`, {seeds} seed(s), mean +- standard deviation."
        return f"{heading}\n\n{render(header, rows, 'md')}"
    caption = f"Test metrics in %, rule {rule}: {RULES[rule]}; {seeds} seed(s), mean +- standard deviation."
    return render(header, rows, form, caption)


def every_value(runs: dict[Setting, list[Path]], rule: str) -> tuple[list[str], list[list]]:
    """One line a setting and metric, in full precision; without a deviation where there is one seed."""
    rows = []
    for setting, folders in runs.items():
        by_seed = {folder.name.removeprefix("seed"): metrics_of(folder, rule) for folder in folders}
        for column in dict.fromkeys(name for metrics in by_seed.values() for name in metrics):
            values = {seed: metrics[column] for seed, metrics in by_seed.items() if column in metrics}
            spread = statistics.stdev(values.values()) if len(values) > 1 else None
            each = " ".join(map(repr, values.values()))
            rows.append([*setting, rule, column, " ".join(values), each, statistics.mean(values.values()), spread])
    return "dataset method setting rule column seeds values mean deviation".split(), rows


def make_grid(runs: dict[Setting, list[Path]], rule: str) -> tuple[list[str], list[list[str]], str]:
    """The header, the rows, and the number of seeds in words."""
    rows = {setting: [read_run(folder, rule) for folder in folders] for setting, folders in runs.items()}
    columns = list(dict.fromkeys(name for seeds in rows.values() for seed in seeds for name in seed))
    count = {len(seeds) for seeds in rows.values()}
    seeds = str(count.pop()) if len(count) == 1 else f"{min(count)} to {max(count)}"
    cells = [
        [*setting, str(len(runs)), *(summary([run[name] for run in runs if name in run]) for name in columns)]
        for setting, runs in rows.items()
    ]
    return ["data set", "method", "setting", "seeds", *columns], cells, seeds


def read_run(folder: Path, rule: str) -> dict[str, float | str]:
    """The columns of one run: accuracies in %, probes in %, the epochs (from 1) with an open window, and the hold.

    An ensemble has no epochs, so no windows.

    Raises:
        RunError: if the run has no such rule.
    """
    if rule not in read_json(folder / "result.json"):
        raise RunError(f"{folder} has no rule {rule!r}: it was trained without --val_fraction")
    metrics = metrics_of(folder, rule)
    columns: dict[str, float | str] = {name: metrics.pop(name) for name in ("accuracy", "macro_f1")} | metrics
    if folder.parts[-3] == ENSEMBLE:
        return columns
    epochs = read_metrics(folder / "metrics.jsonl")
    for name in epochs[0]["prime_window"]:
        opened = [str(row["epoch"] + 1) for row in epochs if row["prime_window"][name]]
        columns[f"window {name}"] = " ".join(opened) or "never"
    return columns


def metrics_of(folder: Path, rule: str) -> dict[str, float]:
    """Accuracies and probes of a finished run and, whatever the rule, the hold over its epochs, in %."""
    result = read_json(folder / "result.json")[rule]
    metrics = {name: 100 * value for name, value in result.items() if name not in ("epoch", "loss")}
    probes = folder / "probe.json"
    if probes.exists():
        metrics |= {f"probe {name}": 100 * value for name, value in read_json(probes).items()}
    if (file := folder / "metrics.jsonl").exists():  # an ensemble has no epochs
        epochs = read_metrics(file)
        holds = {name: regulated(epochs, name).hold for name in epochs[0].get("hold", {})}
        metrics |= {f"hold {name}": 100 * hold for name, hold in holds.items() if hold is not None}
    return metrics


def summary(values: list[float | str]) -> str:
    """Mean and standard deviation of numbers, or the seeds' words side by side; a dash for nothing."""
    if not values:
        return "-"
    if isinstance(values[0], str):
        return "; ".join(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.1f}"


def unlike(settings: dict[Setting, list[Path]]) -> list[str]:
    """A sentence for each difference among the runs of a data set, beside the flags that their tags name."""
    origins: dict[str, list[Origin]] = defaultdict(list)
    for (dataset, method, tag), folders in settings.items():
        for folder in folders:
            args = read_json(folder / "args.json")
            named = [flag for flag in args if re.search(rf"(^|_){flag}=", tag)]
            origins[dataset].append(Origin(f"{method}/{tag}/{folder.name}", f"{method}/{tag}", args, named))
    return [f"{dataset}: {sentence}" for dataset, runs in origins.items() for sentence in differences(runs)]
