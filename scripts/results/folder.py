"""The tables of a folder: a row for each setting of which there are finished runs, or for each run and rule."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from localisation import STAGES
from methods import METHODS
from scripts.experiments.cells import Row
from scripts.experiments.ensembles import ENSEMBLE
from scripts.results.columns import WANTED, Samples, classifies, read_columns
from scripts.results.consistency import Origin, differences
from scripts.results.experiment import joint_for
from scripts.results.labels import Setting, flags_of_tag, label_settings, notes_on
from scripts.results.lines import Line
from scripts.results.places import by_setting
from scripts.results.tables import Table
from utils.errors import warn
from utils.runs.files import read_json, read_results
from utils.runs.setting import PATH_FLAGS, differing
from utils.runs.setting import setting as named

ROWS = ("unimodal", ENSEMBLE, *(name for name in METHODS if name != "unimodal"))  # the controls first

UNTRAINED = "{}: no label is read and no classifier trained, so there is no accuracy (docs/METHODS.md)."


def find_runs(root: Path) -> tuple[dict[Setting, list[Path]], list[Path]]:
    """{(dataset, method, tag): folders of its finished seeds} in the order of ROWS, and the unfinished folders.

    Runs of localisation, which have no accuracies, are left out: localise.py makes their tables. So are runs in folders
    of other names than seed<k>, such as a backup, with a warning.

    Raises:
        RunError: as `by_setting`.
    """
    finished, unfinished, others = [], [], []
    for file in sorted(root.rglob("args.json")):
        folder = file.parent
        if folder.parent.parent.name in STAGES:
            continue
        if not re.fullmatch(r"seed\d+", folder.name):
            others.append(folder)
        elif (folder / "done").exists():
            finished.append(folder)
        else:
            unfinished.append(folder)
    if others:
        warn(f"left out, since a run's folder is called seed<number>: {', '.join(map(str, others))}")
    runs = by_setting(finished)

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
        if rule not in read_results(folder)
    ]
    kept = {setting: [folder for folder in folders if folder not in without] for setting, folders in runs.items()}
    return {setting: folders for setting, folders in kept.items() if folders}, without


def tables_of(runs: dict[Setting, list[Path]], rule: str, chosen: Sequence[str] = ()) -> list[Table]:
    """A table for each data set, a row for each setting; `chosen`: the columns to show.

    Raises:
        RunError: if a run has no such rule.
    """
    by_dataset: dict[str, dict[Setting, list[Path]]] = defaultdict(dict)
    for setting, folders in runs.items():
        by_dataset[setting[0]][setting] = folders
    return [table_of(dataset, settings, rule, chosen) for dataset, settings in by_dataset.items()]


def table_of(dataset: str, runs: dict[Setting, list[Path]], rule: str, chosen: Sequence[str]) -> Table:
    """The table of one data set's settings."""
    samples, lines, rows = Samples(), [], []
    flags = {flag for folders in runs.values() for folder in folders for flag in read_json(folder / "args.json")}
    labels, shared = label_settings(list(runs), flags)
    for setting, folders in runs.items():
        by_seed = dict(sorted((int(folder.name.removeprefix("seed")), folder) for folder in folders))
        right = {seed: samples.right(folder, rule) for seed, folder in by_seed.items()}
        metrics = {seed: read_columns(folder, rule) for seed, folder in by_seed.items()}
        correct = {seed: found for seed, found in right.items() if found is not None}
        lines.append(Line(labels[setting], metrics, correct=correct, control=setting[1] in ("unimodal", ENSEMBLE)))
        said = flags_of_tag(setting[2], flags) or {"tag": setting[2]}
        words = [f"--{flag} {value}" for flag, value in said.items() if setting[2] != "default"]
        rows.append(Row(labels[setting], " ".join([f"--method {setting[1]}", *words])))
    joint = [joint_for(number, rows) for number in range(len(rows))]
    lines = [replace(line, against=None if k is None else lines[k]) for line, k in zip(lines, joint, strict=True)]
    seeds = tuple(sorted({seed for line in lines for seed in line.metrics}))
    of_runs = [metrics for line in lines for metrics in line.metrics.values()]
    # The order is that of the run that has most: one of a single modality lacks the others.
    names = dict.fromkeys(name for metrics in sorted(of_runs, key=len, reverse=True) for name in metrics)
    columns = [name for name in names if name not in WANTED]
    notes = notes_on(labels, shared)
    notes += [UNTRAINED.format(labels[setting]) for setting, folders in runs.items() if not classifies(folders[0])]
    title = "Every setting"
    return Table("", title, dataset, rule, seeds, tuple(columns), tuple(lines), (), tuple(chosen), tuple(notes))


def tidy(runs: dict[Setting, list[Path]], rules: Sequence[str]) -> tuple[list[str], list[list]]:
    """A header, and a row for each run and each of these rules that it has.

    Columns: where the run is (`dataset`, `method`, `tag`, `seed`), `rule` and `epoch` (from 1; empty for an ensemble),
    each flag in which runs differ, the test `loss`, and every column of a table, numbers in full. A run without a flag
    or a number has an empty cell.
    """
    rows, flags = [], {}
    for setting, folders in runs.items():
        for folder in folders:
            args = read_json(folder / "args.json")
            flags[folder] = {flag: value for flag, value in named(args).items() if flag not in (*PATH_FLAGS, "runs")}
            for rule, result in read_results(folder).items():
                if rule in rules:
                    loss = {"loss": result.get("loss")} if classifies(folder) else {}
                    found = loss | read_columns(folder, rule)
                    epoch = None if result.get("epoch") is None else result["epoch"] + 1
                    rows.append((folder, [*setting, folder.name.removeprefix("seed"), rule, epoch], found))
    differ = list(differing({str(folder): values for folder, values in flags.items()}))
    names = list(dict.fromkeys(name for _, _, found in rows for name in found))
    header = ["dataset", "method", "tag", "seed", "rule", "epoch", *differ, *names]
    return header, [
        [*place, *(plain(flags[folder].get(flag)) for flag in differ), *(found.get(name) for name in names)]
        for folder, place, found in rows
    ]


def plain(value: object) -> object:
    """A flag's value as a cell: that of a flag which may be given more than once in one word."""
    return "+".join(map(str, value)) if isinstance(value, list) else value


def unlike(settings: dict[Setting, list[Path]]) -> list[str]:
    """A sentence for each difference among the runs of a data set, beside the flags that their tags name."""
    origins: dict[str, list[Origin]] = defaultdict(list)
    every = {folder: read_json(folder / "args.json") for folders in settings.values() for folder in folders}
    flags = {flag for args in every.values() for flag in args}
    labels = {}
    for dataset in dict.fromkeys(dataset for dataset, *_ in settings):
        labels |= label_settings([setting for setting in settings if setting[0] == dataset], flags)[0]
    for setting, folders in settings.items():
        dataset, method, tag = setting
        for folder in folders:
            args = every[folder]
            named = [flag for flag in args if re.search(rf"(^|_){flag}=", tag)]
            if "epochs" in named and f"epochs={args['epochs']}" not in tag.split("_"):
                named.remove("epochs")  # the run has gone on beyond what its name says
            name = f"{labels[setting]} ({folder.name.replace('seed', 'seed ')})"
            origins[dataset].append(Origin(name, f"{method}/{tag}", args, named))
    return [f"{dataset}: {sentence}" for dataset, runs in origins.items() for sentence in differences(runs)]
