"""Clips that have been decoded before: `--cache disk` and `--cache device`."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.recipes.corrupt import Corrupt
from dataset.recipes.frames import FrameTransform, from_levels
from dataset.recipes.pictures import size_of
from dataset.storage.files import Files
from dataset.storage.resident import Resident
from dataset.storage.source import Source, naming
from dataset.storage.store import Shape, Store, store
from utils.errors import CombinationError


class Stored(Source):
    """The clips of `files` from the stores on disk, which are made where they are not there yet (--cache disk)."""

    def __init__(self, args: Namespace, files: Files, modalities: Sequence[str]):
        self.root = Path(args.cache_root or Path(args.data_root) / "cache")
        self.sounds = self.store_sounds(files, args.workers) if "audio" in modalities else None
        self.frames = self.store_frames(files, args.workers) if "visual" in modalities else None
        # Noise is put on frames that are cropped; without it they reach the device as uint8, a quarter of the bytes.
        self.noisy = files.noise.touches("visual")
        if not self.noisy:
            self.finish = from_pixels

    def sound(self, clip: int) -> Tensor:
        return torch.from_numpy(self.sounds.read(clip)[0])

    def pictures(self, clip: int, frames: Sequence[int]) -> list[np.ndarray]:
        arrays = self.frames.read(clip)
        return [arrays[frame] for frame in frames]

    def frame_count(self, clip: int) -> int:
        return len(self.frames.shapes[clip])

    def visual(self, clip: int, frames: Sequence[int], transform: FrameTransform, corrupt: Corrupt) -> Tensor:
        if self.noisy:
            return super().visual(clip, frames, transform, corrupt)
        return transform.pixels(self.pictures(clip, frames))

    def store_sounds(self, files: Files, workers: int) -> Store:
        """The spectrograms of all clips, under the noise that belongs to the data."""
        noise = [step for step in files.noise.steps if step[0].modality == "audio"]
        return store(
            self.root, "sound", f"{files.recipe} {noise}", files.names, [[wave] for wave in files.waves],
            lambda: [[files.recipe.shape]] * len(files.names),
            lambda clip: [files.sound(clip).numpy()], "float32", workers,
        )  # fmt: skip

    def store_frames(self, files: Files, workers: int) -> Store:
        """All frames of all clips."""
        return store(
            self.root, "frames", "RGB", files.names, files.images, lambda: picture_shapes(files),
            lambda clip: [np.asarray(image) for image in files.pictures(clip, range(files.frame_count(clip)))],
            "uint8", workers,
        )  # fmt: skip


class OnDevice(Stored):
    """`Stored` on the device: a sample holds what was drawn for it, and the device makes the inputs from that.

    Raises:
        CombinationError: for noise on pictures, which are cropped on the device.
    """

    def __init__(self, args: Namespace, files: Files, modalities: Sequence[str]):
        if files.noise.touches("visual"):
            raise CombinationError("--cache device crops on the device, noise on pictures is made before: use disk")
        super().__init__(args, files, modalities)
        self.finish = self.resident = Resident(self.sounds, self.frames, args.image_size)

    def sound(self, clip: int) -> Tensor:
        return torch.tensor(clip)

    def visual(self, clip: int, frames: Sequence[int], transform: FrameTransform, corrupt: Corrupt) -> Tensor:
        shapes = self.frames.shapes[clip]
        return self.resident.draws(clip, frames, *transform.draw([shapes[frame][1::-1] for frame in frames]))


def from_pixels(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs on the device, where uint8 pictures become what the recipe makes of them, float32."""
    return {name: from_levels(x) if x.dtype == torch.uint8 else x for name, x in inputs.items()}


def picture_shapes(files: Files) -> list[list[Shape]]:
    """(height, width, 3) of every frame of every clip, by the headers alone."""
    shapes = []
    clips = zip(files.names, files.images, strict=True)
    for name, images in tqdm(clips, total=len(files.names), leave=False, disable=None):
        with naming(name):
            shapes.append([(*size_of(image)[::-1], 3) for image in images])
    return shapes
