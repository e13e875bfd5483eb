"""Figures 6 and 9: how well do the features of each modality separate the classes?"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from scripts.drawing.pictures import Picture, Runs, save
from scripts.trained.maps import Map, make_maps
from scripts.trained.restore import places, restore
from utils.runs.plots import COLOURS, MARKERS, legend_below

# Those of the modalities and six more. Beyond six, and not with every colour vision, the marker tells some apart, too.
CLASS_COLOURS = (*COLOURS, "#000000", "#F0E442", "#882255", "#999999", "#332288", "#8B5A2B")
HEADER = ("setting", "run", "modality", "sample", "class", "x", "y", "silhouette")


def figure6(rows: Sequence[Runs]) -> Picture:
    """The last features of every run: a column for each setting, a line for each modality."""
    count = sum(len(runs.folders) for runs in rows)
    with tqdm(total=count, desc="t-SNE", unit="run", leave=False, disable=None) as bar:

        def each(runs: Runs, folder: Path) -> dict[str, Map]:
            maps = write_maps(folder / "last.pt", places(runs.args))
            bar.update()
            return maps

        return picture(rows, [[each(runs, folder) for folder in runs.folders] for runs in rows])


def write_maps(path: Path, flags: argparse.Namespace) -> dict[str, Map]:
    """{modality: its map} of the checkpoint `path`, drawn beside it; `flags`: those of `add_flags`.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or the test split has one class only.
    """
    trained = restore(path, flags)
    args, maps = trained.args, make_maps(trained, path)
    for name, its_map in maps.items():
        runs = Runs(f"{args.method} on {args.dataset}, seed {args.seed}", args, [path.parent])
        title = f"Features of {name} by t-SNE; {runs.label}"
        save(picture([runs], [[{name: its_map}]]), path.parent / "figures" / f"tsne_{name}", title)
    return maps


def picture(rows: Sequence[Runs], maps: Sequence[Sequence[dict[str, Map]]]) -> Picture:
    """A column for each row, a line for each modality: the points of the first seed, the silhouettes of all seeds.

    `maps`: by row and seed.
    """
    names = tuple(maps[0][0])
    figure = Figure(figsize=(3.4 * len(rows) + 0.4, 3.9 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(rows), squeeze=False)
    numbers: list[Sequence] = []
    for column, (runs, seeds) in enumerate(zip(rows, maps, strict=True)):
        for line, name in zip(axes, names, strict=True):
            draw_map(line[column], f"{runs.label}: {name}", [seed[name] for seed in seeds])
        for folder, seed in zip(runs.folders, seeds, strict=True):
            for name, its_map in seed.items():
                labels = [its_map.names[number] for number in its_map.classes]
                points = zip(labels, *its_map.points.T.tolist(), its_map.silhouettes.tolist(), strict=True)
                numbers += [(runs.label, folder.name, name, sample, *point) for sample, point in enumerate(points)]
    legend_below(figure, *axes[0, 0].get_legend_handles_labels(), fontsize="small", markerscale=1.5)
    first, count = rows[0].folders[0].name, len(rows[0].folders)
    note = first if count == 1 else f"points of {first}, silhouettes' mean ± standard deviation of {count} seeds"
    return Picture(figure, note, HEADER, numbers)


def draw_map(axis, title: str, seeds: Sequence[Map]) -> None:
    """The first seed's points, coloured by class; below the title the silhouette over the seeds."""
    first, scores = seeds[0], [seed.silhouettes.mean() for seed in seeds]
    for number, label in enumerate(first.names):
        axis.scatter(*first.points[first.classes == number].T, s=15, label=label, **look(number))
    spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
    axis.set_title(f"{title}\nsilhouette {np.mean(scores):+.3f}{spread}")
    axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])


def look(number: int) -> dict:
    """Colour and marker of a class: the colour differs among twelve that follow each other, the pair among 72."""
    shift, colour = divmod(number, len(CLASS_COLOURS))
    marker = MARKERS[(colour + colour // len(MARKERS) + shift) % len(MARKERS)]
    return {"color": CLASS_COLOURS[colour], "marker": marker, "linewidths": 0, "alpha": 0.8}
