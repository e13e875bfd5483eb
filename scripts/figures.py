"""The paper's figures from finished runs, each with the numbers behind it.

    python scripts/figures.py figure1 --dataset GRID --data_root data/GRID --seeds 0 1 2

Writes results/figures/figure1_GRID.svg, .pdf, .png and .csv. No title is drawn: the caption is a property of the
files. `scripts/reproduce.sh figure1` makes the runs and draws them, too. Other flags are main.py's, as that script's
EXTRA has them: they name the runs. The same runs give the same bytes.
"""

import argparse
from pathlib import Path

from dataset import DATASETS
from engine.hints import one_of
from scripts.drawing.figures import FIGURES, draw
from scripts.experiments.paper import EXPERIMENTS
from utils.errors import one_sentence


def main(argv: list[str] | None = None) -> Path:
    """Draw one figure; returns the picture's path.

    Raises:
        RunError: if a run is missing, with the command that makes it, or does not hold what the figure shows.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=FIGURES, help="the paper's number")
    parser.add_argument("--dataset", choices=DATASETS, type=one_of(DATASETS), help="by default the paper's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs (default: 0 1 2)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results (default: results)")
    parser.add_argument("--data_root", help="where the data lie, if not where the data set looks by itself")
    flags, extra = parser.parse_known_args(argv)
    experiment = EXPERIMENTS[flags.name]
    dataset = flags.dataset or experiment.datasets[0]
    picture = draw(experiment, dataset, flags.seeds, flags.out, flags.data_root, extra)
    print(f"written: {picture}")
    return picture


if __name__ == "__main__":
    with one_sentence():
        main()
