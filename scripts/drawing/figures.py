"""The paper's figures by name, drawn from the runs of their experiments."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.drawing import curves, sweeps
from scripts.drawing.demo import demo
from scripts.drawing.gradients import figure4
from scripts.drawing.maps import figure6
from scripts.drawing.pictures import Picture, Runs, save
from scripts.drawing.window_map import window_map
from scripts.experiments.cells import Cell, Experiment, cells, parsed
from scripts.results.places import place_of
from utils.errors import RunError

FIGURES: dict[str, Callable[[Sequence[Runs]], Picture]] = {
    "figure1": curves.figure1,
    "figure3": curves.figure3,
    "figure4": figure4,
    "figure5": curves.figure5,
    "figure6": figure6,
    "figure7": sweeps.figure7,
    "figure8": sweeps.figure8,
    "figure9": figure6,
    "figure10": curves.figure10,
    "demo": demo,
    "window_map": window_map,
}


def draw(
    experiment: Experiment,
    dataset: str,
    seeds: Sequence[int],
    out,
    data_root=None,
    extra: Sequence[str] = (),
    rule: str = "last",
) -> Path:
    """Write <out>/figures/<name>_<dataset>.svg, .pdf, .png and .csv from the experiment's runs; returns the first.

    A figure of the paper needs every run, and follows rule `last`. That of a sweep shows the settings whose runs are
    all there, by any rule.

    Raises:
        RunError: if a run is missing, with the command that makes it, or does not hold what the figure shows.
    """
    name = experiment.name
    every = cells(experiment, dataset, seeds, out, data_root, extra)
    trained = [cell for cell in every if cell.row.program == "main.py"]
    missing = [cell for cell in trained if not cell.done]
    if missing and name in FIGURES:
        first = f"{missing[0].row.label}, seed {missing[0].seed} ({missing[0].missing()})"
        command = make_command(name, dataset, seeds, out, data_root, extra)
        raise RunError(f"{name} lacks {len(missing)} of {len(trained)} runs on {dataset}, first {first}: {command}")
    if name in FIGURES:
        picture = FIGURES[name](by_row(trained))
    else:
        picture = sweeps.sweep(by_row(trained), experiment.swept, *sweeps.by_rule(rule))
    return save(picture, Path(out) / "figures" / f"{name}_{dataset}", f"{experiment.title}; {dataset}, {picture.note}")


def by_row(trained: Sequence[Cell]) -> list[Runs]:
    """The cells of each row together, without the rows of which a run is missing.

    Raises:
        RunError: if another run lies in the folder of one.
    """
    rows: dict[str, list[Cell]] = {}
    for cell in trained:
        if cell.done:
            place_of(cell.folder)
        rows.setdefault(cell.row.label, []).append(cell)
    return [
        Runs(label, parsed(row[0].argv[1:]), [cell.folder for cell in row])
        for label, row in rows.items()
        if all(cell.done for cell in row)
    ]


def make_command(name: str, dataset: str, seeds: Sequence[int], out, data_root, extra: Sequence[str]) -> str:
    """The command that makes the runs, as a shell takes it."""
    told = {"SEEDS": " ".join(map(str, seeds)), "DATASET": dataset, "DATA_ROOT": data_root, "OUT": out}
    told["EXTRA"] = shlex.join(extra)
    variables = (f"{key}={shlex.quote(str(value))}" for key, value in told.items() if value)
    return " ".join([*variables, "bash scripts/reproduce.sh", name])
