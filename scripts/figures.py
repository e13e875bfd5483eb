"""The paper's figures from finished runs, each with the numbers behind it.

    python scripts/figures.py figure1 --dataset GRID --data_root data/GRID --seeds 0 1 2

Writes results/figures/figure1_GRID.svg and figure1_GRID.csv. scripts/figure1.sh makes the runs and comes here by
itself. Other flags are main.py's, as that script's EXTRA has them: they name the runs. The same runs give the same
bytes.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset import DATASETS
from scripts import gradients, tsne
from scripts.drawing import curves
from scripts.drawing.pictures import Picture, Runs, save
from scripts.experiments.cells import Cell, cells, parsed
from scripts.experiments.paper import EXPERIMENTS
from utils.errors import RunError, one_sentence

FIGURES: dict[str, Callable[[Sequence[Runs]], Picture]] = {
    "figure1": curves.figure1,
    "figure3": curves.figure3,
    "figure4": gradients.figure4,
    "figure5": curves.figure5,
    "figure6": tsne.figure6,
    "figure7": curves.figure7,
    "figure8": curves.figure8,
    "figure9": tsne.figure6,
    "figure10": curves.figure10,
}


def main(argv: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=FIGURES, help="the paper's number")
    parser.add_argument("--dataset", choices=DATASETS, help="by default the paper's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs (default: 0 1 2)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results (default: results)")
    parser.add_argument("--data_root", help="where the data lie, if not where the data set looks by itself")
    own, extra = parser.parse_known_args(argv)
    dataset = own.dataset or EXPERIMENTS[own.name].datasets[0]
    picture = draw(own.name, dataset, own.seeds, own.out, own.data_root, extra)
    print(f"written: {picture}")
    return picture


def draw(name: str, dataset: str, seeds: Sequence[int], out, data_root=None, extra: Sequence[str] = ()) -> Path:
    """Write <out>/figures/<name>_<dataset>.svg and .csv from the experiment's runs; returns the picture's path.

    Raises:
        RunError: if a run is missing, with the command that makes it, or does not hold what the figure shows.
    """
    experiment = EXPERIMENTS[name]
    found = [cell for cell in cells(experiment, dataset, seeds, out, data_root, extra) if cell.row.program == "main.py"]
    if missing := [cell for cell in found if not cell.done]:
        first = f"{missing[0].row.label}, seed {missing[0].seed} ({missing[0].missing()})"
        command = make_command(name, dataset, seeds, out, data_root, extra)
        raise RunError(f"{name} lacks {len(missing)} of {len(found)} runs on {dataset}, first {first}: {command}")
    picture = FIGURES[name](by_row(found))
    picture.figure.suptitle(f"{experiment.title}; {dataset}, {picture.note}", fontsize="medium")
    path = Path(out) / "figures" / f"{name}_{dataset}.svg"
    save(picture, path)
    return path


def by_row(found: Sequence[Cell]) -> list[Runs]:
    rows: dict[str, list[Cell]] = {}
    for cell in found:
        rows.setdefault(cell.row.label, []).append(cell)
    return [Runs(label, parsed(of[0].argv[1:]), [cell.folder for cell in of]) for label, of in rows.items()]


def make_command(name: str, dataset: str, seeds: Sequence[int], out, data_root, extra: Sequence[str]) -> str:
    """What makes the runs, as a shell takes it."""
    told = {"SEEDS": " ".join(map(str, seeds)), "DATASET": dataset, "DATA_ROOT": data_root, "OUT": out}
    told["EXTRA"] = shlex.join(extra)
    return " ".join(
        [*(f"{key}={shlex.quote(str(value))}" for key, value in told.items() if value), "bash", f"scripts/{name}.sh"]
    )


if __name__ == "__main__":
    with one_sentence():
        main()
