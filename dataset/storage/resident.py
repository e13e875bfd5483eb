"""Inputs made on the device from decoded clips that lie there: `--cache device`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dataset.recipes.frames import normalise
from dataset.recipes.resample import crops
from dataset.storage.store import Store


class Resident:
    """Makes a batch's inputs on the device from the host's draws: numbers of clips and frames, crops, flips.

    The draws are `audio`, (B,) numbers of clips, and `visual`, (B, T, 6): row of the frame, left, top, right, bottom,
    mirrored.
    """

    def __init__(self, sounds: Store | None, frames: Store | None, size: int):
        self.sounds, self.frames, self.size = sounds, frames, size
        # Row of each clip's first frame.
        self.first = np.cumsum([0, *(len(shapes) for shapes in frames.shapes)]).tolist() if frames else []

    def draws(
        self, clip: int, chosen: Sequence[int], boxes: Sequence[Sequence[int]], mirrored: Sequence[bool]
    ) -> Tensor:
        """The draws, (T, 6), for the frames `chosen` of a clip, each with its box and flip."""
        rows = (self.first[clip] + frame for frame in chosen)
        return torch.tensor([[row, *box, flip] for row, box, flip in zip(rows, boxes, mirrored.tolist(), strict=True)])

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs as the recipes make them, (B, ...) float32, on the device on which `inputs` lie."""
        made = {}
        for name, x in inputs.items():
            if name == "audio":
                made[name] = self.sounds.on(x.device)[x]
            else:
                row, *box, mirrored = x.flatten(0, 1).unbind(dim=1)
                pictures = self.frames.on(x.device)[row].permute(0, 3, 1, 2)
                pixels = crops(pictures, torch.stack(box, dim=1), self.size).div_(255)
                pixels = torch.where(mirrored.bool().view(-1, 1, 1, 1), pixels.flip(-1), pixels)
                made[name] = normalise(pixels).unflatten(0, x.shape[:2])
        return made
