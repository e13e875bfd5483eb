"""Decoded clips that were never in a file: random sounds and pictures, held as --cache disk and device hold theirs."""

import math
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from dataset.base import Splits
from dataset.storage.cache import OnDevice, Stored
from dataset.storage.store import Store, free_memory
from scripts.benchmarks.synthetic import FRAMES, SIZE, clips_of
from utils.errors import RunError

POOL = 16  # different clips, of which the host holds so many times the wanted number


class Random(Store):
    """`clips` times `each` random arrays of one shape, in memory."""

    def __init__(self, clips: int, each: int, shape: tuple[int, ...], dtype: str):
        self.folder, self.dtype = Path("generated"), np.dtype(dtype)
        self.shapes = [[shape] * each] * clips
        self._resident = {}
        draws, size = np.random.default_rng(0), (POOL, each, *shape)
        # (POOL, each, ...) in the host's memory: here, since every process of a loader would make its own.
        self.pool = draws.integers(0, 256, size, np.uint8) if self.dtype == np.uint8 else draws.random(size, np.float32)

    def read(self, clip: int) -> list[np.ndarray]:
        return list(self.pool[clip % POOL])

    def on(self, device: torch.device) -> Tensor:
        if device not in self._resident:
            size = (len(self.shapes) * len(self.shapes[0]), *self.shapes[0][0])
            needed, free = math.prod(size) * self.dtype.itemsize, free_memory(device)
            if needed > free:
                raise RunError(f"clips of {needed / 1e9:.1f} GB for {free / 1e9:.1f} GB of {device}: lower --clips")
            whole = torch.empty(size, dtype=torch.from_numpy(np.empty(0, self.dtype)).dtype, device=device)
            self._resident[device] = whole.random_(0, 256) if self.dtype == np.uint8 else whole.normal_()
        return self._resident[device]


class Generated(Stored):
    """`Stored`, of random clips; `files.clips` says how many."""

    def store_sounds(self, files, workers: int) -> Store:
        return Random(files.clips, 1, files.recipe.shape, "float32")

    def store_frames(self, files, workers: int) -> Store:
        return Random(files.clips, FRAMES, (*SIZE[::-1], 3), "uint8")


class GeneratedOnDevice(Generated, OnDevice):
    """`OnDevice`, of random clips."""


KINDS = {"disk": Generated, "device": GeneratedOnDevice}


def generated_splits(train: int, test: int, args: Namespace, modalities: tuple[str, ...], held_out: float) -> Splits:
    """Splits of `train` and `test` random clips of the data set and in the cache that `args` name."""
    source = clips_of(args.dataset)
    classes = source.class_names(args)

    def split(clips: int, training: bool):
        def made(modalities, recipe, noise):
            return KINDS[args.cache](args, SimpleNamespace(clips=clips, recipe=recipe, noise=noise), modalities)

        rows = [(f"clip{i:05d}", i % len(classes)) for i in range(clips)]
        return source(args, rows, modalities, train=training, source=made)

    withheld = split(test, False) if held_out else None
    return Splits(split(train, True), withheld, withheld, None, split(test, False), classes)


def generated(train: int, test: int):
    """What makes such splits of arguments, modalities and a share that is withheld."""
    return partial(generated_splits, train, test)
