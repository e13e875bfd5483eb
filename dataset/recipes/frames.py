"""Frame recipes: which frames of a clip, and how each becomes a tensor."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.recipes.corrupt import Corrupt, unchanged
from dataset.recipes.pictures import read_picture
from dataset.recipes.resample import crop
from utils.errors import DataError, list_names

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}  # what pictures may be called
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def random_frames(available: int, wanted: int) -> list[int]:
    """`wanted` different frame numbers of 0..available-1 in time order, from torch's global generator."""
    return sorted(torch.randperm(available)[:wanted].tolist())


def segment_frames(available: int, wanted: int) -> list[int]:
    """One random frame of each of `wanted` equal parts of the clip, from torch's global generator."""
    ends = [part * available // wanted for part in range(wanted + 1)]
    places = torch.rand(wanted, dtype=torch.float64).tolist()
    return [first + int(place * (end - first)) for first, end, place in zip(ends, ends[1:], places, strict=False)]


def even_frames(available: int, wanted: int) -> list[int]:
    """The middle frame of each of `wanted` equal parts of the clip: deterministic, in time order."""
    return [(2 * part + 1) * available // (2 * wanted) for part in range(wanted)]


def mend(wanted: int) -> str:
    """The remedy, in a sentence, for clips whose files are missing or too few."""
    leave_out = f"--min_frames {wanted} --allow_missing, which leaves them out"
    return f"Prepare these again (data/README.md); clips that are too short: a smaller --frames here, or {leave_out}"


@dataclass(frozen=True)
class FrameTransform:
    """Pictures of one clip -> (T, 3, size, size) float32, ImageNet mean and standard deviation.

    Training crops a random part (`crop_scale` of the area) and flips half of the frames, each frame for itself, as the
    public code does; evaluation resizes to a square (the aspect ratio is not kept), also as the public code does.
    `corrupt` is what noise makes of the pixels in [0, 1], (T, 3, size, size), before they are normalised.
    """

    size: int
    train: bool
    crop_scale: tuple[float, float]
    flip: bool

    def __call__(self, images: Sequence[Image.Image | np.ndarray], corrupt: Corrupt = unchanged) -> Tensor:
        """Transform images that are Pillow's or (H, W, 3) uint8 arrays; the result is the same."""
        if corrupt is unchanged:  # then pictures are mirrored before they are numbers, which costs less
            return from_levels(self.pixels(images))
        boxes, mirrored = self.draw(picture_sizes(images))
        levels = self._cropped(images, boxes, torch.zeros_like(mirrored)).float().div_(255)
        frames = normalise(torch.from_numpy(corrupt(levels.numpy())))
        frames[mirrored] = frames[mirrored].flip(-1)
        return frames

    def pixels(self, images: Sequence[Image.Image | np.ndarray]) -> Tensor:
        """(T, 3, size, size) uint8, of which `from_levels` makes what a call gives without noise."""
        return self._cropped(images, *self.draw(picture_sizes(images)))

    def _cropped(self, images, boxes, mirrored: Tensor) -> Tensor:
        pixels = torch.empty(len(images), 3, self.size, self.size, dtype=torch.uint8)
        for place, image, box, turned in zip(pixels, images, boxes, mirrored.tolist(), strict=True):
            place.copy_(resized(image, box, self.size, turned))
        return pixels

    def draw(self, sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int, int, int]], Tensor]:
        """For frames of these (width, height): crops (left, top, right, bottom), and (T,) bool, which to mirror."""
        if not self.train:
            return [(0, 0, *size) for size in sizes], torch.zeros(len(sizes), dtype=torch.bool)
        boxes = random_boxes(sizes, self.crop_scale)
        return boxes, torch.rand(len(sizes)) < 0.5 if self.flip else torch.zeros(len(sizes), dtype=torch.bool)


def normalise(frames: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1], in place, to ImageNet's mean 0 and standard deviation 1."""
    mean, std = imagenet(frames.device)
    return frames.sub_(mean).div_(std)


@cache
def imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation, (3, 1, 1) each: sent to a device once, since the host waits for that."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def from_levels(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32, ImageNet mean and standard deviation."""
    return normalise(pixels.float().div_(255))


def picture_sizes(images: Sequence[Image.Image | np.ndarray]) -> list[tuple[int, int]]:
    """(width, height) of each."""
    return [image.size if isinstance(image, Image.Image) else image.shape[1::-1] for image in images]


def resized(image: Image.Image | np.ndarray, box: tuple[int, int, int, int], size: int, mirrored: bool) -> Tensor:
    """The part `box` of a picture, (3, size, size) uint8, its left and right exchanged if `mirrored`."""
    if isinstance(image, np.ndarray):
        return torch.from_numpy(crop(image, box, size, mirrored))
    part = image if box == (0, 0, *image.size) else image.crop(box)
    part = part.resize((size, size), Image.Resampling.BILINEAR)
    part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)


def random_boxes(sizes: Sequence[tuple[int, int]], scale: tuple[float, float]) -> list[tuple[int, int, int, int]]:
    """A random crop (left, top, right, bottom) for each (width, height), as torchvision's RandomResizedCrop draws them.

    Area uniform in `scale`, aspect ratio log-uniform in [3/4, 4/3], the first of ten that fits, otherwise the largest
    central part of an admissible ratio. torchvision draws frame by frame, which takes longer than decoding a frame of
    some 50 pixels; here all come from one call of torch's global generator.
    """
    draws = torch.rand(4, len(sizes), 10, dtype=torch.float64).permute(1, 2, 0).tolist()
    boxes = []
    for size, tries in zip(sizes, draws, strict=True):
        fitting = filter(None, (box_of(size, scale, *drawn) for drawn in tries))
        boxes.append(next(fitting, None) or central_box(*size))
    return boxes


def box_of(
    size: tuple[int, int], scale: tuple[float, float], area: float, ratio: float, x: float, y: float
) -> tuple[int, int, int, int] | None:
    """The crop of a (width, height) that four draws in [0, 1) make; None if it does not fit."""
    width, height = size
    area = (scale[0] + area * (scale[1] - scale[0])) * width * height
    ratio = (3 / 4) ** (1 - 2 * ratio)
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < w <= width and 0 < h <= height):
        return None
    left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
    return left, top, left + w, top + h


def central_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest central part whose aspect ratio is in [3/4, 4/3]."""
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def load_frames(files: Sequence[Path | BinaryIO]) -> list[Image.Image]:
    """The pictures as RGB. Raises OSError as `read_picture`."""
    return [read_picture(file) for file in files]


def list_frames(folder: Path, suffix: str = ".jpg") -> list[Path]:
    """The clip's pictures in time order, which is that of the numbers in their names: 4, 8, 11 with or without zeros.

    The order of a directory's listing is the file system's. The case of `suffix` does not matter; hidden files do not
    count.

    Raises:
        DataError: if two pictures have one number, or some are of another type than `suffix`, which would be left out.
    """
    if not os.path.isdir(folder):  # False, and no error, for a name that is too long
        return []
    there = [(*os.path.splitext(name), name) for name in os.listdir(folder) if name[0] != "."]
    frames = sorted((number_of(stem), name) for stem, kind, name in there if kind.lower() == suffix)
    others = sorted(name for _, kind, name in there if kind.lower() in PICTURES - {suffix})
    if frames and others:
        raise DataError(
            f"{folder}: pictures of another type than {suffix}, {list_names(others)}: convert or remove them"
        )
    if twice := [f"{one} and {other}" for (number, one), (same, other) in pairwise(frames) if number == same]:
        raise DataError(f"{folder}: pictures of one number, {list_names(twice)}: remove one of them")
    return [folder / name for _, name in frames]


def number_of(stem: str) -> list[str | int]:
    """A key that sorts names by the numbers in them; 3 and 00003 have the same."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split("([0-9]+)", stem))]
