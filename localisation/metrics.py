"""How well maps say which objects sound: pure functions of arrays.

Maps are never negative, (N, C, h, w) by frame and category, in the resolution of the network; they are compared with
boxes in that of the frame, (H, W), after bilinear interpolation. All formulas are those of the public code of DSOL and
CSOL unless a docstring says that they are ours.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score

from localisation.data import Object

THRESHOLDS = np.arange(21) / 20  # over which the share of successes is integrated
QUIET = 0.2  # at most which a map says "nothing sounds here"
BATCH = 64  # frames that are interpolated at once

Objects = Sequence[Object]


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (..., h, w) at (H, W), bilinear, pixels taken as areas."""
    flat = torch.from_numpy(np.ascontiguousarray(maps, np.float32)).reshape(-1, 1, *maps.shape[-2:])
    larger = torch.nn.functional.interpolate(flat, size, mode="bilinear", align_corners=False)
    return larger.reshape(*maps.shape[:-2], *size).numpy()


def mask(objects: Objects, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels whose middle lies in a box; at least one a box.

    The public code cuts both ends of a box down to whole pixels.
    """
    found = np.zeros(size, bool)
    for left, top, width, height in (item.box for item in objects):
        found[_span(top, height, size[0]), _span(left, width, size[1])] = True
    return found


def _span(start: float, length: float, pixels: int) -> slice:
    first = min(max(int(np.floor(start * pixels + 0.5)), 0), pixels - 1)
    return slice(first, max(int(np.floor((start + length) * pixels + 0.5)), first + 1))


def iou(values: np.ndarray, truth: np.ndarray, ratio: float) -> float:
    """Intersection over union of {map > ratio max map} and a mask, both (H, W); `values` is the map.

    A map of equal values above 0 is the whole image; one that is 0 everywhere is nothing.
    """
    found = values > ratio * values.max()
    return float((found & truth).sum() / (found | truth).sum())


def ciou(maps: np.ndarray, objects: Objects, ratio: float) -> float:
    """The mean, over the categories that sound in a frame, of the IoU of the category's map; maps: (C, H, W).

    The boxes of a category are one mask. NaN if no object sounds.
    """
    heard = group_by_category(objects, sounding=True)
    values = [iou(maps[number], mask(items, maps.shape[1:]), ratio) for number, items in heard.items()]
    return float(np.mean(values)) if values else np.nan


def nsa(maps: np.ndarray, objects: Objects, quiet: float = QUIET) -> float:
    """The no-sounding area of a frame: the mean, over the categories that do not sound, of the share {map <= quiet}.

    maps: (C, H, W) probabilities. NaN if all categories sound. By itself the number means nothing: of six categories
    the uniform map has 1/6 everywhere, which is below 0.2, and so an area of 1.
    """
    silent = sorted(set(range(len(maps))) - set(group_by_category(objects, sounding=True)))
    return float((maps[silent] <= quiet).mean()) if silent else np.nan


def group_by_category(objects: Objects, sounding: bool) -> dict[int, list[Object]]:
    """{category: its objects}: of the categories with an object that sounds, those; else of the categories without."""
    heard = {item.category for item in objects if item.sounding}
    groups: dict[int, list[Object]] = {}
    for item in objects:
        if item.sounding == sounding and (sounding or item.category not in heard):
            groups.setdefault(item.category, []).append(item)
    return groups


def success(values: np.ndarray, threshold: float) -> float:
    """The share of values that are at least `threshold`; IoU@0.5 and CIoU@0.3 are of this kind."""
    return float((np.asarray(values) >= threshold).mean())


def auc(values: np.ndarray) -> float:
    """The area under `success` over thresholds from 0 to 1, by trapezoids of width 0.05."""
    shares = [success(values, threshold) for threshold in THRESHOLDS]
    return float(np.sum((np.add(shares[1:], shares[:-1])) / 2 * np.diff(THRESHOLDS)))


def match(labels: np.ndarray, clusters: np.ndarray, categories: int, count: int) -> np.ndarray:
    """(K,) the category of each of `count` clusters; -1: none.

    A pair's score is the share of the category's clips that are in the cluster. As many pairs as possible are chosen
    one to one, with the greatest sum (the Hungarian method; the public code tries 10^6 random permutations). Of more
    clusters than categories, each of the others goes to the category that most of its clips have, or to none if it is
    empty. Of fewer, some categories have no cluster. labels and clusters: (N,) of the training clips.
    """
    table = np.zeros((categories, count))
    np.add.at(table, (labels, clusters), 1)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    matching = np.where(table.any(axis=0), table.argmax(axis=0), -1)
    rows, columns = linear_sum_assignment(shares, maximize=True)
    matching[columns] = rows
    return matching


def class_maps(maps: np.ndarray, matching: np.ndarray, categories: int) -> np.ndarray:
    """(N, C, h, w): the sum of the maps (N, K, h, w) of a category's clusters; 0 for one without."""
    chosen = np.arange(categories)[:, None] == matching  # (C, K)
    return np.einsum("ck,nkhw->nchw", chosen.astype(maps.dtype), maps)


def auroc(maps: np.ndarray, objects: Sequence[Objects]) -> float:
    """How well a category's mean over its map (N, C, h, w) tells whether its visible objects sound (ours).

    The area under the receiver operating characteristic over all frames and the categories visible in them: the
    probability that one that sounds has a greater mean than a silent one. A purely visual map has 1/2, whatever its
    CIoU. NaN if nothing visible is silent, or everything.
    """
    means = maps.mean(axis=(2, 3))
    scores, sounds = [], []
    for row, items in zip(means, objects, strict=True):
        for heard in (True, False):
            seen = group_by_category(items, sounding=heard)
            scores += [row[number] for number in seen]
            sounds += [heard] * len(seen)
    return float(roc_auc_score(sounds, scores)) if 0 < sum(sounds) < len(sounds) else np.nan


def recall(means: np.ndarray, objects: Sequence[Objects]) -> float:
    """The share of the categories that sound among as many categories with the greatest values (ours).

    means: (N, C), such as the means of maps or the probabilities of a classifier of the sound. The mean over frames
    with an object that sounds; equal values count as in random order.
    """
    found = []
    for row, items in zip(means, objects, strict=True):
        if heard := list(group_by_category(items, sounding=True)):
            least = np.sort(row)[-len(heard)]
            above, level = row > least, row == least
            places = (len(heard) - above.sum()) / level.sum()
            found.append((above[heard].sum() + places * level[heard].sum()) / len(heard))
    return float(np.mean(found)) if found else np.nan


def evaluate(
    maps: np.ndarray, objects: Sequence[Objects], size: tuple[int, int], ratio: float, quiet: float = QUIET
) -> dict[str, float]:
    """All numbers of the maps (N, C, h, w) of mixed frames of (H, W) pixels, as shares of 1.

    CIoU@0.3 and AUC of the frames in which a box sounds, NSA, AUROC, recall, how many frames there are, and how many
    have no such box and are left out of all of them, as in the public code.
    """
    heard = np.array([any(item.sounding for item in items) for items in objects], bool)
    kept, shown = maps[heard], [items for items, kept in zip(objects, heard, strict=True) if kept]
    overlaps, areas = [], []
    for large, items in _larger(kept, shown, size):
        overlaps.append(ciou(large, items, ratio))
        areas.append(nsa(large, items, quiet))
    counts = {"frames": len(maps), "without_box": int((~heard).sum())}
    if not shown:
        return dict.fromkeys(("CIoU@0.3", "AUC", "NSA", "AUROC", "recall"), np.nan) | counts
    return {
        "CIoU@0.3": success(overlaps, 0.3),
        "AUC": auc(overlaps),
        "NSA": float(np.nanmean(areas)) if not np.isnan(areas).all() else np.nan,
        "AUROC": auroc(kept, shown),
        "recall": recall(kept.mean(axis=(2, 3)), shown),
    } | counts


def evaluate_solo(
    maps: np.ndarray, objects: Sequence[Objects], size: tuple[int, int], ratio: float
) -> dict[str, float]:
    """IoU@0.5 and AUC of one map (N, h, w) for all that sounds in a frame of (H, W) pixels; counts as in `evaluate`."""
    overlaps = []
    for large, items in _larger(maps, objects, size):
        if sounding := [item for item in items if item.sounding]:
            overlaps.append(iou(large, mask(sounding, size), ratio))
    counts = {"frames": len(maps), "without_box": len(maps) - len(overlaps)}
    values = {"IoU@0.5": success(overlaps, 0.5), "AUC": auc(overlaps)} if overlaps else {}
    return {"IoU@0.5": np.nan, "AUC": np.nan} | values | counts


def _larger(
    maps: np.ndarray, objects: Sequence[Objects], size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, Objects]]:
    """Each frame's maps at (H, W) with its objects; a few frames at a time, for thousands of them."""
    for start in range(0, len(maps), BATCH):
        yield from zip(resize(maps[start : start + BATCH], size), objects[start : start + BATCH], strict=True)


def references(agnostic: np.ndarray, categories: int) -> Mapping[str, np.ndarray]:
    """{name: maps (N, C, h, w)} that know nothing of the sound, to be printed beside every map's numbers.

    agnostic: (N, h, w), the map that asks only whether something matches; it is repeated for every category. uniform:
    1/C everywhere; whole image: 1 everywhere; centre box: 1 in the middle half of the height and the width, else 0. A
    uniform map and the whole image have the same IoU, but not the same NSA.
    """
    shape = (len(agnostic), categories, *agnostic.shape[1:])
    centre = np.zeros(shape, np.float32)
    rows, columns = (slice(side // 4, side - side // 4) for side in shape[2:])
    centre[:, :, rows, columns] = 1
    return {
        "uniform": np.full(shape, 1 / categories, np.float32),
        "class-agnostic": np.broadcast_to(agnostic[:, None], shape),
        "whole image": np.ones(shape, np.float32),
        "centre box": centre,
    }
