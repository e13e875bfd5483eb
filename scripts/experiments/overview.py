"""What every experiment reproduces, how many runs that takes, and which numbers to expect."""

import re
import textwrap

from dataset import DATASETS
from scripts.experiments.cells import Experiment, Row, Setting, parsed
from scripts.experiments.paper import EXPERIMENTS

SEEDS = 3  # the default of SEEDS
HOW_LONG = (
    "Runs and epochs are those of three seeds; a run that another name shares is trained once. Seconds of an epoch are "
    "in docs/PERFORMANCE.md; on a GPU none has been timed yet. From its first run on, each says how long the rest "
    "takes."
)
# From docs/REPRODUCTION.md and docs/SHORT_RUNS.md; accuracy in %, mean +- standard deviation over three to five seeds.
VECTORS = "on AV-MNIST as vectors (10 s a run on one CPU thread):"
IN_NOISE = "on GRID in noise, a short run:"
MEASURED = {
    "table2": f"{VECTORS} InfoReg 83.9 +- 0.8, joint training 84.3 +- 0.6",
    "table3": f"{VECTORS} InfoReg* 83.9 +- 1.3, joint training* 84.0 +- 1.5",
    "table4": f"{VECTORS} InfoReg, accumulated window 83.7 +- 1.0, in all epochs 83.0 +- 1.5",
    "table5": f"{VECTORS} with concat InfoReg, accumulated window 83.7 +- 1.0, joint training 84.3 +- 0.6",
    "table6": "on other features (12 s a run on one CPU thread): InfoReg 76.0 +- 1.0, joint training 76.2 +- 1.2",
    "figure1": "on GRID: docs/figures/figure1_GRID.svg",
    "figure4": f"{IN_NOISE} docs/figures/figure4_GRID_noise.svg",
    "figure5": f"{IN_NOISE} docs/figures/figure5_GRID_noise.svg",
    "figure6": f"{IN_NOISE} docs/figures/figure6_GRID_noise.svg",
    "figure7": f"{VECTORS} accumulated window, beta 0.9 83.7 +- 1.0, the best beta 1.0 83.9 +- 0.9",
    "figure8": f"{VECTORS} accumulated window, K 0.1 83.7 +- 1.0, the best K 0.08 84.0 +- 0.5",
    "figure9": f"{IN_NOISE} silhouettes in docs/SHORT_RUNS.md",
    "demo": "(40 s a run on one CPU thread): InfoReg, accumulated window 79.7 +- 1.9, joint training 71.0 +- 1.5",
    "window_map": "on GRID: docs/figures/window_map_GRID.svg",
    "ablation_window": (
        "on GRID (70 s a run on one CPU thread): joint training 97.4 +- 1.1, InfoReg, paper's window 97.1 +- 1.1, "
        "accumulated 96.5 +- 0.8"
    ),
    "ablation_variant": "on GRID (2.4 hours, two at a time on two cores): InfoReg 99.0 +- 0.9, official 98.5 +- 0.5",
    "methods": f"{VECTORS} the best, mmcosine, 90.4 +- 0.5, joint training 84.3 +- 0.6",
}


def overview() -> str:
    """A paragraph for every name."""
    paragraphs = [textwrap.fill(HOW_LONG, 100)]
    for name, experiment in EXPERIMENTS.items():
        lines = [f"{name}: {experiment.title}"]
        for dataset in experiment.datasets:
            runs, epochs = size(experiment, dataset)
            lines.append(f"{dataset}: {runs} runs, {epochs} epochs in all{expected(experiment, dataset)}")
        paragraphs.append("\n    ".join([*lines, f"ours: {MEASURED.get(name, 'not measured yet')}"]))
    return "\n\n".join(paragraphs)


def rows_of(experiment: Experiment, dataset: str) -> tuple[Row, ...]:
    """The rows on one data set with all its modalities; nothing on the disk is looked at."""
    args = parsed(["--dataset", dataset, *experiment.flags.get(dataset, "").split(), "--method", "joint"])
    return experiment.rows(Setting(tuple(DATASETS[dataset].forms), args))


def size(experiment: Experiment, dataset: str) -> tuple[int, int]:
    """How many models are trained with SEEDS seeds, and the epochs of all of them together."""
    default = parsed(["--dataset", dataset, *experiment.flags.get(dataset, "").split(), "--method", "joint"]).epochs
    trained = [row.flags for row in rows_of(experiment, dataset) if row.program == "main.py"]
    epochs = [int(flag[1]) if (flag := re.search(r"--epochs (\d+)", flags)) else default for flags in trained]
    return SEEDS * len(trained), SEEDS * sum(epochs)


def expected(experiment: Experiment, dataset: str) -> str:
    """The paper's values of its own method, or of joint training where that is all; "" where it has none."""
    known = [row for row in rows_of(experiment, dataset) if row.paper.get(dataset)]
    if not known:
        return ""
    ours = [row for row in known if row.label.startswith("InfoReg")] or known
    best = max(ours, key=lambda row: next(iter(row.paper[dataset].values())))
    values = ", ".join(f"{column} {value:.2f}" for column, value in best.paper[dataset].items())
    return f"; the paper's {best.label}: {values}"
