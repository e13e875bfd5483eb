"""UCF101: 13320 clips of 101 actions from YouTube, as pictures and optical flow (Soomro et al., arXiv 1212.0402)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from torch import Tensor

from dataset.base import MultimodalDataset
from dataset.lists import read_lines, repeated
from dataset.recipes.corrupt import Corrupt
from dataset.recipes.frames import FrameTransform, even_frames, load_frames, number_of, random_frames
from dataset.recipes.pictures import read_picture
from dataset.splits import check_disjoint, read_split
from dataset.storage.files import check_complete, find_frames
from dataset.storage.source import naming
from models.encoders import RESNETS, ConvNet
from utils.errors import DataError, list_names
from utils.numbers import positive

STEP = 20 / 127  # pixels of motion a grey level, as data/prepare_ucf101.py stores it; 128 is none
ENCODERS = {
    **{
        name: {"rgb": partial(resnet, channels=3), "flow": partial(resnet, channels=2)}
        for name, resnet in RESNETS.items()
    },
    "convnet": {
        "rgb": partial(ConvNet, channels=3, frames=True),
        "flow": partial(ConvNet, channels=2, frames=True),
    },
}
FOLDERS = {"rgb": ("Image", ".jpg"), "flow": ("Flow", ".png")}


class UCF101(MultimodalDataset):
    """One split. Sample: ({"rgb": (T, 3, H, W), "flow": (T, 2, H, W)}, class number, position in the split).

    rgb: T frames of the clip, ImageNet mean and standard deviation. flow: the motion (u to the right, v downwards) from
    each of them to the next frame of the video, in pixels of the original picture, within +-20. Both are resized to a
    square without a crop, as in the public code of this field; in training half of the clips are mirrored, which turns
    the sign of u.

    What is drawn of a sample does not depend on the modalities that are read: both see the same moments.
    """

    protocol = "public code of TCMax, from scratch, too; momentum, weight decay and fps are ours"
    defaults = dict(
        data_root="data/UCF101", fps=3, frames=3, image_size=224, batch_size=32, epochs=400,
        optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4, lr_step=300, lr_gamma=0.1,
    )  # fmt: skip
    forms = {"rgb": "picture", "flow": "values"}

    def __init__(self, args, clips: Sequence[tuple[str, int]], modalities: Sequence[str], train: bool):
        super().__init__(args, [clip for clip, _ in clips], [target for _, target in clips], modalities, train)
        self.wanted, self.size = args.frames, args.image_size
        self.resize = FrameTransform(args.image_size, train=False, crop_scale=(1.0, 1.0), flip=False)
        self.files: dict[str, list[list[Path]]] = {}
        faults: dict[str, list[str]] = defaultdict(list)
        for name in modalities:
            kind, suffix = FOLDERS[name]
            self.files[name] = find_frames(Path(args.data_root), kind, args, self.names, faults, suffix)
        for clip, *files in zip(self.names, *self.files.values(), strict=True):
            if any(numbers(others) != numbers(files[0]) for others in files[1:]):
                faults["pictures that are not numbered as flows"].append(clip)
        check_complete(args, faults)

    def __getitem__(self, position: int):
        files = {name: of_clips[position] for name, of_clips in self.files.items()}
        available = len(next(iter(files.values())))
        chosen = random_frames(available, self.wanted) if self.train else even_frames(available, self.wanted)
        mirrored = self.train and torch.rand(()) < 0.5
        inputs = {}
        with naming(self.names[position]):
            for name in self.modality_names:
                read = self.rgb if name == "rgb" else self.flow
                corrupt = self.noise.on(name, self.names[position], chosen)
                inputs[name] = read([files[name][i] for i in chosen], corrupt)
                if mirrored:
                    inputs[name] = inputs[name].flip(-1)
        if mirrored and "flow" in inputs:
            inputs["flow"][:, 0] *= -1
        return inputs, self.targets[position], position

    def rgb(self, files: Sequence[Path], corrupt: Corrupt) -> Tensor:
        """Pictures as one input, resized, with their noise."""
        return self.resize(load_frames(files), corrupt)

    def flow(self, files: Sequence[Path], corrupt: Corrupt) -> Tensor:
        """Optical flow as one input, of two channels, with its noise."""
        flows = torch.stack([load_flow(file, self.size) for file in files])
        return torch.from_numpy(corrupt(flows.numpy()))

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        return ENCODERS[args.encoder]

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        """The labels in the order of the published classInd.txt, rows `number class`.

        Raises:
            DataError: if the file is missing or has other rows.
        """
        path = Path(args.data_root) / "classInd.txt"
        if not path.is_file():
            raise DataError(f"{path} does not exist: prepare the data (data/README.md) or set --data_root")
        rows = [line.split() for _, line in read_lines(path)]
        if not rows or any(row[:1] != [str(number)] or len(row) != 2 for number, row in enumerate(rows, 1)):
            raise DataError(f"{path}: rows must be `number class`, numbered from 1: prepare the data again")
        if twice := repeated(name for _, name in rows):
            raise DataError(f"{path}: classes named more than once, {list_names(twice)}: prepare the data again")
        return tuple(name for _, name in rows)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="of the three published; papers: 1")
        group.add_argument(
            "--encoder", choices=ENCODERS, default="resnet18",
            help="resnet18: the papers', here from scratch; resnet34 and 50: larger; convnet: small, for CPUs",
        )  # fmt: skip
        group.add_argument("--fps", type=positive, help="which Image-<fps>-FPS and Flow-<fps>-FPS to read")
        group.add_argument(
            "--frames", type=positive, help="moments of a clip: random in training, evenly spaced in evaluation"
        )
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")

    @classmethod
    def read_splits(cls, args) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The rows of the training and of the test list of --split, each clip in one of them only."""
        root = Path(args.data_root)
        classes = cls.class_names(args)
        train, test = (read_split(path, classes) for path in cls.split_files(args)[:2])
        check_disjoint(train, test, root)
        return train, test

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The lists of --split and the class index."""
        names = (f"train{args.split:02d}.csv", f"test{args.split:02d}.csv", "classInd.txt")
        return [Path(args.data_root) / name for name in names]


def numbers(files: Sequence[Path]) -> list[list[str | int]]:
    """Which moments of a clip its pictures or flows are of, by their names."""
    return [number_of(file.stem) for file in files]


def load_flow(file: Path, size: int) -> Tensor:
    """(2, size, size) float32 in pixels of a stored picture, u above v."""
    both = read_picture(file).convert("L")
    width, height = both.width, both.height // 2
    parts = (both.crop((0, top, width, top + height)) for top in (0, height))
    resized = [np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)) for part in parts]
    return (torch.from_numpy(np.stack(resized)).float() - 128) * STEP
