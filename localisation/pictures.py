"""A contact sheet: frames with their maps laid over, and boxes that say which objects sound and which are silent."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.recipes.frames import imagenet
from localisation.metrics import Objects, group_by_category, iou, mask, resize
from utils.runs.plots import save_figure

SOUNDING, SILENT = "#56B4E9", "white"  # the first as far from the maps' colours as can be; solid and dashed, too
CELL, LARGE = 1.35, 1.75  # inches: sides of a solo and of a mixed clip's pictures
LINE, HEAD = 0.17, 0.4  # inches: a line above a picture, and one above all
SOLO = 8  # solo frames in a row
NAMED = 4  # categories of a mixed frame that have a picture of their own


class Shown(NamedTuple):
    """Clips to show: frames (N, 3, H, W), normalised as models take them, their maps, and what is in the frames.

    maps: (N, h, w) of solo clips, (N, C, h, w) of mixed ones, whose values are probabilities.
    """

    frames: Tensor
    maps: np.ndarray
    objects: Sequence[Objects]


def write_sheet(solo: Shown, mixed: Shown, categories: Sequence[str], ratio: float, stem: Path, title: str) -> Path:
    """Write `sheet` as <stem>.svg, .pdf and .png, as `save_figure` does; returns the first."""
    return save_figure(sheet(solo, mixed, categories, ratio), stem, title)


def sheet(solo: Shown, mixed: Shown, categories: Sequence[str], ratio: float):
    """A figure of solo clips above mixed ones.

    A solo clip: the frame, and below it its map, with a line around where it is above `ratio` of its maximum, and the
    IoU of that. A mixed clip is a row: the frame with all boxes; the greatest of the maps of as many categories as
    sound, those with the greatest means, by name; then the map of each visible category (at most four), with its mean.
    Colours of a map begin at what a map that knows nothing has, 0 in a solo frame and 1/C in a mixed one, and end at
    the greatest value in the frame.
    """
    from matplotlib.figure import Figure  # here, since it takes seconds to load

    rows = -(-len(solo.frames) // SOLO)
    heights = (HEAD + 2 * rows * (CELL + LINE), 1.3 * HEAD + len(mixed.frames) * (LARGE + 2 * LINE))
    figure = Figure(figsize=(SOLO * CELL * 1.03, sum(heights)))
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    # Places are given, since a layout engine takes seconds for so many of them.
    margins = {"left": 0.004, "right": 0.996, "bottom": 0.02 / sum(heights)}
    upper.subplots_adjust(**margins, top=1 - (HEAD + LINE) / heights[0], hspace=LINE / CELL, wspace=0.03)
    top = 1 - (1.3 * HEAD + 2 * LINE) / heights[1]
    lower.subplots_adjust(**margins, top=top, hspace=2 * LINE / LARGE, wspace=0.05)
    line = f"the IoU is of what the white line holds, where the map is above {ratio:g} of its maximum"
    upper.suptitle(f"Solo clips: the frame with its object, and its map; {line}", **at_top(heights[0]))
    lower.suptitle(
        "Mixed clips: the frame, the categories that the maps say sound, and the map of each visible category\n"
        "solid box, ♪: it sounds; dashed box: it is silent",
        **at_top(heights[1]),
    )
    names = [name.replace("_", " ") for name in categories]
    draw_solo(upper, solo, names, ratio)
    draw_mixed(lower, mixed, names)
    return figure


def at_top(height: float) -> dict:
    """Where the heading of a part of so many inches stands."""
    return {"y": 1 - 0.08 / height, "va": "top", "fontsize": 10}


def draw_solo(figure, shown: Shown, categories: Sequence[str], ratio: float) -> None:
    """Frames, and below each its map, in rows of eight."""
    rows = -(-len(shown.frames) // SOLO)
    axes = blank(figure.subplots(2 * rows, SOLO, squeeze=False))
    for number, (frame, small, objects) in enumerate(zip(*shown, strict=True)):
        above, below = (axes[2 * (number // SOLO) + line, number % SOLO] for line in (0, 1))
        large = resize(small, frame.shape[1:])
        show(above, pixels(frame), objects)
        above.set_title(
            ", ".join(categories[number] for number in group_by_category(objects, sounding=True)), fontsize=8
        )
        lay_over(below, frame, large, 0.0, large.max(), objects)
        above_ratio = large > ratio * large.max()
        if 0 < above_ratio.mean() < 1:  # else there is no line to draw
            below.contour(above_ratio, levels=[0.5], colors="white", linewidths=0.8)
        if objects:
            overlap = iou(large, mask([item for item in objects if item.sounding], large.shape), ratio)
            below.set_title(f"IoU {overlap:.2f}", fontsize=8)


def draw_mixed(figure, shown: Shown, categories: Sequence[str]) -> None:
    """A row for each clip."""
    axes = blank(figure.subplots(len(shown.frames), 2 + NAMED, squeeze=False))
    for row, frame, small, objects in zip(axes, *shown, strict=True):
        large, least = resize(small, frame.shape[1:]), 1 / len(categories)
        most, means = float(large.max()), small.mean(axis=(1, 2))
        heard = group_by_category(objects, sounding=True)
        show(row[0], pixels(frame), objects)
        row[0].set_title("\n".join(f"♪ {categories[number]}" for number in heard), fontsize=8)
        said = np.argsort(-means, kind="stable")[: max(1, len(heard))].tolist()
        lay_over(row[1], frame, large[said].max(axis=0), least, most, objects)
        marks = {number: "✓" if number in heard else "✗" for number in said}
        row[1].set_title("\n".join(f"maps: {categories[k]} {mark}" for k, mark in marks.items()), fontsize=8)
        visible = list(dict.fromkeys(item.category for item in objects))[:NAMED]
        for axis, number in zip(row[2:], visible, strict=False):
            own = [item for item in objects if item.category == number]
            lay_over(axis, frame, large[number], least, most, own)
            state = "♪ sounds" if number in heard else "silent"
            axis.set_title(f"{categories[number]}\n{state}, mean {means[number]:.2f}", fontsize=8)


def blank(axes: np.ndarray) -> np.ndarray:
    """The axes, of which none shows more than what is drawn into it."""
    for axis in axes.flat:
        axis.set_axis_off()
    return axes


def pixels(frame: Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1] of a normalised frame (3, H, W)."""
    mean, std = imagenet(torch.device("cpu"))
    return (frame.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def show(axis, image: np.ndarray, objects: Objects) -> None:
    """A picture with the boxes of its objects."""
    from matplotlib.patches import Rectangle

    axis.imshow(image, interpolation="nearest")
    height, width = image.shape[:2]
    for item in objects:
        left, top, across, down = item.box
        place = (left * width - 0.5, top * height - 0.5), across * width, down * height
        line = {"edgecolor": SOUNDING, "lw": 2.2} if item.sounding else {"edgecolor": SILENT, "lw": 1.3, "ls": "--"}
        axis.add_patch(Rectangle(*place, fill=False, edgecolor="black", lw=line["lw"] + 1.4, alpha=0.6))
        axis.add_patch(Rectangle(*place, fill=False, **line))


def lay_over(axis, frame: Tensor, values: np.ndarray, least: float, most: float, objects: Objects) -> None:
    """A map (H, W) over its frame, whose colours are faint: clear where it is `least` or below, full at `most`."""
    from matplotlib import colormaps

    image = pixels(frame)
    faint = 0.6 * image.mean(axis=2, keepdims=True) + 0.4 * image
    strength = ((values - least) / max(most - least, 1e-6)).clip(0, 1)[:, :, None]
    colours = colormaps["inferno"](0.25 + 0.7 * strength[:, :, 0])[:, :, :3]
    opacity = 0.8 * strength
    show(axis, (1 - opacity) * (0.2 + 0.7 * faint) + opacity * colours, objects)
