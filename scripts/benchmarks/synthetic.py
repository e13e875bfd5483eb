"""Data where there are none: batches of random numbers in a data set's shapes, and a folder of generated clips."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dataset import DATASETS
from dataset.base import MultimodalDataset, Splits
from dataset.clips import AudioVisualClips
from utils.errors import RunError

SAMPLE_RATE, SECONDS = 16000, 2.5  # of the sound of a generated clip, as CREMA-D's
SIZE = (480, 360)  # of its pictures
FRAMES = 8


class RandomInputs(MultimodalDataset):
    """`count` samples of `shapes`, {modality: shape}, from a normal distribution; classes in turn."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], classes: int, count: int):
        self.shapes = shapes
        self.targets = [i % classes for i in range(count)]

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], int, int]:
        draws = torch.Generator().manual_seed(i)
        return {name: torch.randn(shape, generator=draws) for name, shape in self.shapes.items()}, self.targets[i], i


def random_splits(args: Namespace, modalities: tuple[str, ...], held_out: float, count: int) -> Splits:
    """`count` random samples in every split that the run has.

    Raises:
        RunError: if the data set of `args` has no sound and frames.
    """
    shapes, classes = shapes_of(args), clips_of(args.dataset).class_names(args)
    data = RandomInputs({name: shapes[name] for name in modalities}, len(classes), count)
    withheld = data if held_out else None
    return Splits(data, withheld, withheld, None, data, classes)


def shapes_of(args: Namespace) -> dict[str, tuple[int, ...]]:
    """{modality: shape of a sample} of the data set and the recipe that `args` name. Raises RunError as `clips_of`."""
    sound = clips_of(args.dataset).audio.shape
    return {"audio": sound, "visual": (args.frames, 3, args.image_size, args.image_size)}


def clips_of(name: str) -> type[AudioVisualClips]:
    """The data set of that name. Raises RunError if it has no shapes of sound and frames."""
    having = {
        other: source for other, source in DATASETS.items() if issubclass(source, AudioVisualClips) and source.audio
    }
    if name not in having:
        raise RunError(f"--synthetic is for {', '.join(having)}, which say the shapes of sound and frames, not {name}")
    return having[name]


def write_clips(root: Path, args: Namespace, count: int) -> None:
    """`count` clips in the layout of dataset/clips.py, all of the training split but one; the test split has that one.

    The pictures are a coarse random pattern, enlarged, under faint noise: jpg files of some 20 KB, as a face before a
    plain wall gives.
    """
    import soundfile  # here, since random inputs do without

    random = np.random.default_rng(0)
    classes = clips_of(args.dataset).class_names(args)
    rows = [f"clip{i:05d},{classes[i % len(classes)]}\n" for i in range(count + 1)]
    (root / "AudioWAV").mkdir(parents=True)
    for row in tqdm(rows, desc="generating clips", leave=False, disable=None):
        clip = row.split(",")[0]
        sound = 0.1 * random.standard_normal(round(SAMPLE_RATE * SECONDS))
        soundfile.write(root / "AudioWAV" / f"{clip}.wav", sound, SAMPLE_RATE)
        folder = root / f"Image-{args.fps:02d}-FPS" / clip
        folder.mkdir(parents=True)
        for moment in range(1, max(FRAMES, args.frames) + 1):
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
            pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
            pixels = pixels + random.normal(0, 2, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{moment:05d}.jpg", quality=90)
    (root / "train.csv").write_text("".join(rows[:-1]))
    (root / "test.csv").write_text(rows[-1])
