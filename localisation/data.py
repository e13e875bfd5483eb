"""The contract of a localisation data set: seconds of sound with a frame, and pairs with a foreign frame.

A data set has two kinds of clips: solo clips with one source of sound, and mixed ones in which some of the visible
objects sound and others are silent. Training reads neither categories nor boxes; evaluation asks for them by name.
"""

import copy
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.errors import DataError

PARTS = ("train", "test")


@dataclass(frozen=True)
class Object:
    """An object in a frame: its category's number, its box in shares of the frame, and whether it sounds."""

    category: int
    box: tuple[float, float, float, float]  # left, top, width, height, in [0, 1]
    sounding: bool


class Clips(Dataset):
    """Seconds of sound, each with a frame: what dataset/loader.py makes batches of.

    Item i is ({"audio": (1, T, F) log-mel, "visual": (3, H, W) normalised as ImageNet's}, 0, i), both float32; the 0
    stands where a data set with labels has the class. Random draws come from torch's global generator alone, which the
    loader sets for every item by (seed, epoch, i).

    videos: (N,) numbers of the videos that the items are cut from. labels: (N,) categories, for evaluation: to match
    clusters with categories, never to train; None where an item has several. ratio: share of a map's maximum above
    which it says "object", in the published evaluation of such clips.
    """

    draws: ClassVar[bool] = True  # these three are what the loader asks of a data set
    finish: ClassVar[None] = None
    names: ClassVar[Sequence[str]] = ()  # by which predictions are kept of data sets with classes

    def __init__(self, videos: Sequence[int], labels: Sequence[int] | None, ratio: float, train: bool):
        self.videos, self.ratio, self.train = np.asarray(videos), ratio, train
        self.labels = None if labels is None else np.asarray(labels)

    def plan(self, at: Sequence[int], generator: torch.Generator) -> None:
        """No order is read best."""

    def __len__(self) -> int:
        return len(self.videos)

    def sound(self, position: int) -> Tensor:
        """The log-mel spectrogram of an item, (1, T, F)."""
        raise NotImplementedError

    def frame(self, position: int) -> Tensor:
        """A frame of an item, (3, H, W); in training it may be drawn and augmented."""
        raise NotImplementedError

    def objects(self, position: int) -> tuple[Object, ...]:
        """What is in the frame, for evaluation; empty in training, so that nothing can be read from it."""
        return ()

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], int, int]:
        return {"audio": self.sound(position), "visual": self.frame(position)}, 0, position

    def plain(self) -> "Clips":
        """The same clips as evaluation sees them: the middle frame, without augmentation."""
        other = copy.copy(self)
        other.train = False
        return other


class Pairs(Clips):
    """Training clips with a foreign frame: item i has, beside `audio` and `visual`, `other` (3, H, W).

    That is a frame of another video, each item of another video being equally likely. It may show the same category,
    since no label is used to avoid it, as in the public code.

    Raises:
        DataError: if there are not two videos.
    """

    def __init__(self, clips: Clips):
        super().__init__(clips.videos, None, clips.ratio, clips.train)
        self.clips = clips
        if len(np.unique(self.videos)) < 2:
            raise DataError("a pair needs a frame of another video, and there are not two videos: add some")
        self.order = np.argsort(self.videos, kind="stable")
        ordered = self.videos[self.order]
        self.first, self.end = (np.searchsorted(ordered, self.videos, side) for side in ("left", "right"))

    def foreign(self, position: int) -> int:
        """The position of an item of another video, drawn uniformly from torch's global generator."""
        first, end = int(self.first[position]), int(self.end[position])
        drawn = int(torch.randint(len(self) - (end - first), ()))
        return int(self.order[drawn if drawn < first else drawn + end - first])

    def sound(self, position: int) -> Tensor:
        return self.clips.sound(position)

    def frame(self, position: int) -> Tensor:
        return self.clips.frame(position)

    def plain(self) -> Clips:
        return self.clips.plain()

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], int, int]:
        inputs, *rest = super().__getitem__(position)
        return inputs | {"other": self.frame(self.foreign(position))}, *rest


class Localisation:
    """A data set of localisation; the class is the data set, and this one the contract. No instance is made.

    defaults: the flags' defaults: `data_root`, `image_size`, `encoder`, `clusters` (K) and the data set's own; recipes:
    those of the flags of a stage (localisation.STAGES), where they are not the public code's.
    """

    protocol: ClassVar[str]  # whose recipe the defaults are, for --help
    defaults: ClassVar[Mapping[str, Any]]
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def add_args(cls, group) -> None:
        """Add the flags that only this data set has."""

    @classmethod
    def refusal(cls, args: Namespace) -> str | None:
        """A sentence that says why the flags do not go together; None if they do."""
        return None

    @classmethod
    def categories(cls, args: Namespace) -> Sequence[str]:
        """The categories' names in the order of their numbers; only evaluation uses them."""
        raise NotImplementedError

    @classmethod
    def solo(cls, args: Namespace, part: str) -> Clips:
        """The clips with one source of the part "train" or "test".

        Raises:
            DataError: if a file is missing or malformed.
        """
        raise NotImplementedError

    @classmethod
    def mixed(cls, args: Namespace, part: str) -> Clips:
        """The clips with several sources, likewise."""
        raise NotImplementedError

    @classmethod
    def files(cls, args: Namespace) -> list[Path]:
        """The files that say which clips there are; runs record their checksums."""
        return []
