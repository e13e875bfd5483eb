"""The source of a split's clips: the sound and the pictures of each, by its number in the split."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dataset.base import EpochPlan, Finish
from dataset.recipes.corrupt import Corrupt, Noise
from dataset.recipes.frames import FrameTransform, load_frames
from utils.errors import CombinationError, DataError

Recipe = Callable[[Path | BinaryIO, Corrupt], Tensor]


@contextmanager
def naming(clip: str) -> Iterator[None]:
    """A context in which errors of pictures, libsndfile and the recipes become one that names the clip."""
    try:
        yield
    except (OSError, SyntaxError, RuntimeError) as error:
        raise DataError(f"clip {clip} does not decode ({error}): prepare it again") from error


class Source:
    """The clips of one split. Every source gives the same samples, bit for bit.

    `finish` makes a batch's inputs, on the device, from what `sound` and `visual` give; None: these are the inputs.
    """

    finish: Finish | None = None

    def sound(self, clip: int) -> Tensor:
        """The picture of the sound that the audio recipe makes, (1, F, T) float32."""
        raise NotImplementedError

    def pictures(self, clip: int, frames: Sequence[int]) -> list[Image.Image] | list[np.ndarray]:
        """These frames of a clip, as Pillow has them or as (H, W, 3) uint8 arrays."""
        raise NotImplementedError

    def frame_count(self, clip: int) -> int:
        """The number of a clip's frames."""
        raise NotImplementedError

    def visual(self, clip: int, frames: Sequence[int], transform: FrameTransform, corrupt: Corrupt) -> Tensor:
        """These frames as the visual encoder takes them, (T, 3, size, size), or what `finish` makes that from."""
        return transform(self.pictures(clip, frames), corrupt)

    def plan(self, at: Sequence[int], generator: torch.Generator) -> EpochPlan | None:
        """The order in which a training epoch is read best, as in MultimodalDataset."""
        return None

    def with_noise(self, noise: Noise) -> "Source":
        """The same clips under other noise.

        Raises:
            CombinationError: if the clips were decoded once, under the noise of then.
        """
        raise CombinationError("clips in a cache keep the noise that they were decoded with: use --cache none")


class Encoded(Source):
    """Clips in their files, decoded whenever they are asked for. A subclass finds the files.

    recipe: what makes the picture of a sound; None where sounds are not read.
    """

    def __init__(self, names: Sequence[str], recipe: Recipe | None, noise: Noise):
        self.names, self.recipe, self.noise = names, recipe, noise

    def wave_file(self, clip: int) -> Path | BinaryIO:
        """The file of a clip's sound."""
        raise NotImplementedError

    def picture_files(self, clip: int, frames: Sequence[int]) -> Sequence[Path | BinaryIO]:
        """The files of these frames."""
        raise NotImplementedError

    def sound(self, clip: int) -> Tensor:
        with naming(self.names[clip]):
            return self.recipe(self.wave_file(clip), self.noise.on("audio", self.names[clip]))

    def pictures(self, clip: int, frames: Sequence[int]) -> list[Image.Image]:
        with naming(self.names[clip]):
            return load_frames(self.picture_files(clip, frames))

    def with_noise(self, noise: Noise) -> "Encoded":
        other = copy.copy(self)
        other.noise = noise
        return other


class Memory(Source):
    """The clips of `source`, all decoded when this is made (--cache ram)."""

    def __init__(self, source: Encoded, modalities: Sequence[str]):
        self.sounds: list[Tensor] = []
        self.frames: list[list[Image.Image]] = []
        clips = range(len(source.names))
        for clip in tqdm(clips, desc="decoding into memory", unit="clip", leave=False, disable=None):
            if "audio" in modalities:
                self.sounds.append(source.sound(clip))
            if "visual" in modalities:
                self.frames.append(source.pictures(clip, range(source.frame_count(clip))))

    def sound(self, clip: int) -> Tensor:
        return self.sounds[clip]

    def pictures(self, clip: int, frames: Sequence[int]) -> list[Image.Image]:
        return [self.frames[clip][frame] for frame in frames]

    def frame_count(self, clip: int) -> int:
        return len(self.frames[clip])
