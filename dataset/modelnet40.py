"""ModelNet40: 12311 objects of 40 classes, each as shaded pictures from 12 sides (Wu et al., CVPR 2015).

<root>/Image-01-FPS/<object>/00001.jpg ... 00012.jpg, train.csv and test.csv, by data/prepare_modelnet40.py
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn

from dataset.base import MultimodalDataset
from dataset.classes import OBJECTS, VIEWS
from dataset.image_text import PICTURES, check_pictures
from dataset.recipes.frames import FrameTransform, load_frames
from dataset.splits import check_disjoint, read_split
from dataset.storage.source import naming
from utils.numbers import positive

PICTURE = "Image-01-FPS/{}/{:05d}.jpg"


def some_views(text: str) -> list[int]:
    """An argument type: the numbers of two views or more, divided by commas."""
    words = text.split(",")
    numbers = [int(word) for word in words if word.isdecimal() and 1 <= int(word) <= VIEWS]
    if len(set(numbers)) < max(2, len(words)):
        raise argparse.ArgumentTypeError(f"{text!r} are no views: two numbers or more from 1 to {VIEWS}, as in 1,7")
    return numbers


class ModelNet40(MultimodalDataset):
    """One split. Sample: ({"view1": (3, H, W), "view7": (3, H, W)}, class number, position in the split).

    Modalities of one kind, so that none leads by what it is: the views of --views, two or more, each with an encoder of
    its own. Pictures are resized to a square without a crop; in training half of the objects are mirrored, in all views
    alike.
    """

    protocol = "ours; views, mirroring and the encoder as in the public code of Greedy"
    defaults = dict(
        data_root="data/ModelNet40", views=[1, 7], image_size=224, batch_size=64, epochs=30,
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, lr_step=20, lr_gamma=0.1,
    )  # fmt: skip
    forms = {f"view{number}": "picture" for number in range(1, VIEWS + 1)}

    def __init__(self, args, objects: Sequence[tuple[str, int]], modalities: Sequence[str], train: bool):
        super().__init__(args, [name for name, _ in objects], [target for _, target in objects], modalities, train)
        self.resize = FrameTransform(args.image_size, train=False, crop_scale=(1.0, 1.0), flip=False)
        self.root = Path(args.data_root)
        pictures = [self.picture(view, name) for name in self.names for view in modalities]
        check_pictures(self.root, pictures, "prepare them again (data/README.md)")

    @staticmethod
    def picture(view: str, name: str) -> str:
        """Where the picture of a view of an object lies, below --data_root."""
        return PICTURE.format(name, int(view.removeprefix("view")))

    def __getitem__(self, position: int):
        name, inputs = self.names[position], {}
        mirrored = self.train and torch.rand(()) < 0.5
        with naming(name):
            for view in self.modality_names:
                corrupt = self.noise.on(view, name, frames=[0])
                picture = self.resize(load_frames([self.root / self.picture(view, name)]), corrupt)[0]
                inputs[view] = picture.flip(-1) if mirrored else picture
        return inputs, self.targets[position], position

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        return {f"view{number}": partial(PICTURES[args.encoder], channels=3) for number in args.views}

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return OBJECTS

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--views", type=some_views, metavar="NUMBERS", help="which of the 12, as in 1,5,9: the modalities"
        )
        group.add_argument(
            "--encoder", choices=PICTURES, default="resnet18", help="of each view; convnet: a small one for CPUs"
        )
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")

    @classmethod
    def read_splits(cls, args) -> list[list[tuple[str, int]]]:
        """The rows of both splits, each object in one of them only."""
        train, test = (read_split(path, OBJECTS) for path in cls.split_files(args))
        check_disjoint(train, test, Path(args.data_root))
        return [train, test]

    @classmethod
    def split_files(cls, args) -> list[Path]:
        return [Path(args.data_root) / f"{name}.csv" for name in ("train", "test")]
