"""Mosaics of four solos of MUSIC, of which two sound, as in MUSIC-Synthetic (Hu et al., NeurIPS 2020)."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.classes import INSTRUMENTS
from dataset.recipes.frames import FrameTransform
from localisation.data import PARTS, Clips, Object
from localisation.seconds import Seconds, log_mel
from utils.errors import DataError, list_names

TESTED = 4  # there are a quarter as many mosaics to test on as to train on


class Mosaic(NamedTuple):
    """Positions of four seconds, which of the four places sound, and the factors of these sounds."""

    parts: tuple[int, ...]
    sounding: tuple[int, ...]
    gains: tuple[float, ...]


class Mosaics(Clips):
    """Mosaics of two by two seconds of solos of different instruments; each is a video of its own.

    Their middle frames (to test on, frames with a box) are the quarters; the sound is the mean of two of theirs, each
    up to 6 dB louder or softer.
    """

    def __init__(self, args: Namespace, solos: Seconds, part: str):
        """Draw them. Raises DataError if there are not four instruments."""
        self.solos = solos.plain()
        self.quarter = FrameTransform(args.image_size // 2, False, (1.0, 1.0), False)
        usable = np.array([part == "train" or len(solos.objects(i)) > 0 for i in range(len(solos))])
        by_label = {k: np.flatnonzero(usable & (solos.labels == k)) for k in np.unique(solos.labels[usable])}
        if len(by_label) < 4:
            shown = "" if part == "train" else " with boxes"
            raise DataError(
                f"{args.data_root}: a mosaic needs solos of four instruments{shown}, and {part}_synthetic.csv has "
                f"{list_names([INSTRUMENTS[k] for k in by_label]) if by_label else 'none'}: add videos"
            )
        size = args.mosaics if part == "train" else max(1, args.mosaics // TESTED)
        self.mosaics = [
            draw(by_label, np.random.default_rng([args.mosaic_seed, PARTS.index(part), number]))
            for number in range(size)
        ]
        super().__init__(np.arange(size), None, solos.ratio, part == "train")

    def sound(self, position: int) -> Tensor:
        parts, sounding, gains = self.mosaics[position]
        waves = [gain * self.solos.wave(parts[place]) for place, gain in zip(sounding, gains, strict=True)]
        return log_mel(np.mean(waves, axis=0, dtype=np.float32))

    def frame(self, position: int) -> Tensor:
        frames = self.quarter([self.solos.picture(part) for part in self.mosaics[position].parts])
        return torch.cat([torch.cat(tuple(frames[row : row + 2]), dim=2) for row in (0, 2)], dim=1)

    def objects(self, position: int) -> tuple[Object, ...]:
        parts, sounding, _ = self.mosaics[position]
        return tuple(
            Object(item.category, in_quarter(item.box, place), place in sounding)
            for place, part in enumerate(parts)
            for item in self.solos.objects(part)
        )


def draw(by_label: Mapping[int, np.ndarray], random: np.random.Generator) -> Mosaic:
    """A mosaic of four of the labels, each with one of its positions."""
    labels = random.permutation(list(by_label))[:4]
    parts = tuple(int(random.choice(by_label[label])) for label in labels)
    sounding = tuple(random.permutation(4)[:2].tolist())
    return Mosaic(parts, sounding, tuple(10 ** (random.uniform(-6, 6, 2) / 20)))


def in_quarter(box: Sequence[float], place: int) -> tuple[float, ...]:
    """A box of a frame as one of the mosaic, of which the frame is quarter 0 to 3, row by row."""
    left, top, width, height = box
    return (place % 2 + left) / 2, (place // 2 + top) / 2, width / 2, height / 2
