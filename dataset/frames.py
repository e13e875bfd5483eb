"""Frame recipes: which frames of a clip, and how each becomes a tensor."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def random_frames(available: int, wanted: int) -> list[int]:
    """`wanted` different frame numbers of 0..available-1 in time order, from torch's global generator."""
    return sorted(torch.randperm(available)[:wanted].tolist())


def even_frames(available: int, wanted: int) -> list[int]:
    """The middle frame of each of `wanted` equal parts of the clip: deterministic, in time order."""
    return [(2 * part + 1) * available // (2 * wanted) for part in range(wanted)]


def make_transform(size: int, train: bool, crop_scale: tuple[float, float], flip: bool) -> v2.Compose:
    """PIL image -> (3, size, size) float32, ImageNet mean and standard deviation.

    Training crops a random part (`crop_scale` of the area) and flips half of the frames, each frame for itself, as the
    public code does; evaluation resizes to a square (the aspect ratio is not kept), also as the public code does.
    """
    if train:
        geometry = [v2.RandomResizedCrop(size, scale=crop_scale), v2.RandomHorizontalFlip(0.5 if flip else 0.0)]
    else:
        geometry = [v2.Resize((size, size))]
    to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose(geometry + to_tensor)


def load_frames(files: Sequence[Path], transform: v2.Compose) -> Tensor:
    """(T, 3, H, W), one transform drawn per frame."""
    frames = []
    for file in files:
        with Image.open(file) as image:
            frames.append(transform(image.convert("RGB")))
    return torch.stack(frames)


def list_frames(folder: Path) -> list[Path]:
    """The clip's .jpg files sorted by name: the order of a directory listing is the file system's, not time."""
    return sorted(folder.glob("*.jpg")) if folder.is_dir() else []
