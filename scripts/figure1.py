"""The paper's Figure 1 from finished runs: Fisher traces over the epochs, trained together (a) and each alone (b).

    python scripts/figure1.py results/GRID --out docs/figures/figure1_grid.svg

Reads every seed of `joint` (without unimodal losses) and of `unimodal` below the folder. Lines are means over seeds,
bands their range. "model" is the sum over the encoders.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a cluster node has no display
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.collect import find_runs  # noqa: E402  (the repository's root has just been put on the path)
from utils.plots import COLOURS  # noqa: E402
from utils.record import read_metrics  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a folder that holds the runs, at any depth")
    parser.add_argument("--out", type=Path, default=Path("figure1.svg"), help="picture to write (default: figure1.svg)")
    args = parser.parse_args(argv)
    runs, _ = find_runs(args.results)
    together = [
        folders for (_, method, tag), folders in runs.items() if method == "joint" and "unimodal_loss" not in tag
    ]
    alone = [folders for (_, method, _), folders in runs.items() if method == "unimodal"]
    if len(together) != 1 or not alone:
        sys.exit(f"error: {args.results} must hold one setting of joint and some of unimodal")
    joint = traces(together[0])
    panels = {
        "(a) trained together": {"model": sum(joint.values())} | joint,
        "(b) each trained alone": {name: values for folders in alone for name, values in traces(folders).items()},
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    colour_of = dict(zip(joint, COLOURS, strict=False)) | {"model": "black"}
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, values in curves.items():
            epochs = np.arange(1, values.shape[1] + 1)
            axis.plot(epochs, values.mean(axis=0), color=colour_of[name], marker="o", markersize=3, label=name)
            axis.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=colour_of[name], alpha=0.15, linewidth=0
            )
        axis.set(xlabel="epoch", title=title, yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    axes[0].set_ylabel("Fisher trace  Tr(F)")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # Without its date the same runs give the same file.
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else None)
    print(f"written: {args.out}")


def traces(folders: list[Path]) -> dict[str, np.ndarray]:
    """{modality: (seeds, epochs)} of one setting."""
    rows = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    return {
        name: np.array([[row["fisher_trace"][name] for row in run] for run in rows])
        for name in rows[0][0]["fisher_trace"]
    }


if __name__ == "__main__":
    main()
