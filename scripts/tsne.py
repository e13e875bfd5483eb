"""How well a model's features separate the classes: t-SNE of each modality, the paper's Figures 6 and 9.

    python scripts/tsne.py results/GRID/joint/default/seed0/last.pt

t-SNE (van der Maaten and Hinton, JMLR 2008; scikit-learn's defaults, seed 0, started from the principal components) of
the test split's features, coloured by class. Beside it the mean silhouette (Rousseeuw 1987), from -1 to 1, of the
classes among the features themselves, not in the picture, whose distances mean little. Prints a line per modality and
writes figures/tsne_<modality>.svg and .csv beside the checkpoint.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from dataset import DATASETS
from methods.run import collect
from scripts.drawing.pictures import Picture, Runs, save
from scripts.trained.restore import add_flags, places, plain_loader, restore
from utils.errors import RunError, one_sentence
from utils.runs.checkpoint import load_checkpoint
from utils.runs.plots import COLOURS, MARKERS

PERPLEXITY = 30.0  # scikit-learn's, and at most a third of the samples


class Map(NamedTuple):
    """One modality's features on the test split. The classes are numbers of `names`."""

    classes: np.ndarray  # (N,)
    points: np.ndarray  # (N, 2)
    silhouettes: np.ndarray  # (N,)
    names: Sequence[str]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Map one checkpoint's features; returns {modality: mean silhouette}.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or the test split has one class only.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="last.pt or best.pt of a run")
    add_flags(parser)
    own = parser.parse_args(argv)
    maps = write_maps(own.checkpoint, own)
    for name, of in maps.items():
        print(f"{name:>8}: silhouette {of.silhouettes.mean():+.3f}")
    return {name: float(of.silhouettes.mean()) for name, of in maps.items()}


def figure6(rows: Sequence[Runs]) -> Picture:
    """The last features of every run: a column for each setting, a line for each modality."""
    with tqdm(
        total=sum(len(runs.folders) for runs in rows), desc="t-SNE", unit="run", leave=False, disable=None
    ) as bar:

        def each(runs: Runs, folder: Path) -> dict[str, Map]:
            maps = write_maps(folder / "last.pt", places(runs.args))
            bar.update()
            return maps

        return picture(rows, [[each(runs, folder) for folder in runs.folders] for runs in rows])


def write_maps(path: Path, own: argparse.Namespace) -> dict[str, Map]:
    """{modality: its map} of the checkpoint `path`, drawn beside it; `own`: the flags of `add_flags`."""
    state = load_checkpoint(path)
    method = restore(state, path, own)
    args, model = method.args, method.model
    source = DATASETS[args.dataset]
    loader = plain_loader(args, source.read_splits(args)[1], model.modalities, own)
    found = collect(model, loader, torch.device(own.device), lambda b: model.encode(b.inputs) | {"": b.target})
    classes, names = found.pop("").numpy(), source.class_names(args)
    try:
        maps = {
            name: Map(classes, embed(x.numpy()), silhouette_samples(x.numpy(), classes), names)
            for name, x in found.items()
        }
    except ValueError as error:  # too few samples, or one class only
        raise RunError(f"{path}: the test split cannot be mapped ({error})") from None
    for name, of in maps.items():
        run = Runs(f"{args.method} on {args.dataset}, seed {args.seed}", args, [path.parent])
        save(picture([run], [[{name: of}]]), path.parent / "figures" / f"tsne_{name}.svg")
    return maps


def embed(features: np.ndarray) -> np.ndarray:
    """(N, dim) -> (N, 2). Features that are all the same, of a dead encoder, are one point."""
    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2))
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(features) - 1) / 3), init="pca", random_state=0)
    with threadpool_limits(1):  # sums in several threads differ from one time to the next
        return tsne.fit_transform(features)


def picture(rows: Sequence[Runs], maps: Sequence[Sequence[dict[str, Map]]]) -> Picture:
    """`maps`: by row and seed. The points are the first seed's, the silhouettes all seeds'."""
    names = tuple(maps[0][0])
    figure = Figure(figsize=(3.4 * len(rows) + 0.4, 3.6 * len(names) + 1), layout="constrained")
    axes = figure.subplots(len(names), len(rows), squeeze=False)
    numbers: list[Sequence] = []
    for column, (runs, seeds) in enumerate(zip(rows, maps, strict=True)):
        for line, name in zip(axes, names, strict=True):
            axis, first = line[column], seeds[0][name]
            for number, label in enumerate(first.names):
                axis.scatter(*first.points[first.classes == number].T, s=15, label=label, **look(number))
            scores = [of[name].silhouettes.mean() for of in seeds]
            spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
            title = f"{runs.label}: {name}\nsilhouette {np.mean(scores):+.3f}{spread}"
            axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", title=title, xticks=[], yticks=[])
        for folder, of in zip(runs.folders, seeds, strict=True):
            for name, found in of.items():
                labels = [found.names[number] for number in found.classes]
                points = zip(labels, *found.points.T.tolist(), found.silhouettes.tolist(), strict=True)
                numbers += [(runs.label, folder.name, name, sample, *point) for sample, point in enumerate(points)]
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 * len(rows), frameon=False, fontsize="small")
    first, count = rows[0].folders[0].name, len(rows[0].folders)
    note = first if count == 1 else f"points of {first}, silhouettes' mean ± standard deviation of {count} seeds"
    header = ("setting", "run", "modality", "sample", "class", "x", "y", "silhouette")
    return Picture(figure, note, header, numbers)


def look(number: int) -> dict:
    """Colour and marker of a class: both differ among six that follow each other, the pair among 36."""
    colour, shift = number % len(COLOURS), number // len(COLOURS)
    return {"color": COLOURS[colour], "marker": MARKERS[(colour + shift) % len(MARKERS)], "linewidths": 0, "alpha": 0.8}


if __name__ == "__main__":
    with one_sentence():
        main()
