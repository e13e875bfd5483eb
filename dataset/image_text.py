"""Pictures with a text each: what HatefulMemes and Food101 share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn as nn

from dataset.base import MultimodalDataset
from dataset.recipes.frames import FrameTransform, load_frames
from dataset.recipes.text import UNKNOWN, Vocabulary
from models.encoders import RESNETS, ConvNet, WordAverage
from utils.errors import DataError, list_names
from utils.numbers import positive

PICTURES = {**RESNETS, "convnet": ConvNet}


@dataclass(frozen=True)
class Row:
    """A sample: `picture` lies below --data_root; `words` are the numbers of the text, once the vocabulary is known."""

    name: str
    picture: str
    text: str
    label: int | None
    words: tuple[int, ...] = ()


class ImageText(MultimodalDataset):
    """One split. Sample: ({"image": (3, H, W), "text": (length,) word numbers}, class number, position in the split).

    A subclass reads the rows and says which pictures there are. The vocabulary is that of the training rows, a share
    withheld by --val_fraction included.
    """

    remedy: ClassVar[str]  # for pictures that are missing or damaged
    protocol = "ours"
    forms = {"image": "picture", "text": "words"}

    def __init__(self, args, rows: Sequence[Row], modalities: Sequence[str], train: bool):
        super().__init__(args, [row.name for row in rows], [row.label for row in rows], modalities, train)
        self.words = torch.tensor([row.words for row in rows])
        # Half of the picture at least: what makes a meme hateful, or a dish another one, is seldom a detail.
        self.transform = FrameTransform(args.image_size, train, crop_scale=(0.5, 1.0), flip=True)
        self.files = [Path(args.data_root) / row.picture for row in rows]
        if "image" in modalities:
            check_pictures(Path(args.data_root), self.pictures(args), self.remedy)

    def __getitem__(self, position: int):
        inputs = {}
        if "image" in self.modality_names:
            file, corrupt = self.files[position], self.noise.on("image", self.names[position], frames=[0])
            try:
                inputs["image"] = self.transform(load_frames([file]), corrupt)[0]
            except (OSError, SyntaxError) as error:  # the latter is Pillow's for a broken PNG
                raise DataError(f"{file} does not decode ({error}): {self.remedy}") from error
        if "text" in self.modality_names:
            corrupt = self.noise.on("text", self.names[position])
            inputs["text"] = torch.from_numpy(corrupt(self.words[position].numpy()))
        return {name: inputs[name] for name in self.modality_names}, self.targets[position], position

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        # As many embeddings as are allowed, also where the texts have fewer words: the model follows from the flags.
        words = UNKNOWN + 1 + args.vocabulary
        return {"image": partial(PICTURES[args.encoder], channels=3), "text": partial(WordAverage, words)}

    @classmethod
    def pictures(cls, args) -> Sequence[str]:
        """The pictures of all splits that are read, below --data_root."""
        raise NotImplementedError

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--encoder", choices=PICTURES, default="resnet18", help="of the picture; convnet: a small one for CPUs"
        )
        group.add_argument("--vocabulary", type=positive, default=5000, help="words known, the most frequent")
        group.add_argument("--text_length", type=positive, default=64, help="words read of a text")
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")


def numbered(splits: Sequence[Sequence[Row]], args) -> list[list[Row]]:
    """The splits with the numbers of their words, by the vocabulary of the first one."""
    vocabulary = Vocabulary((row.text for row in splits[0]), args.vocabulary)
    encode = partial(vocabulary.encode, length=args.text_length)
    return [[replace(row, words=tuple(encode(row.text))) for row in rows] for rows in splits]


def check_pictures(root: Path, pictures: Sequence[str], remedy: str) -> None:
    """Raises DataError that names the pictures that are missing or empty, up to 100 of them."""
    faults: dict[str, list[str]] = {"missing": [], "empty": []}
    for picture in pictures:
        if not (root / picture).is_file():
            faults["missing"].append(picture)
        elif (root / picture).stat().st_size == 0:
            faults["empty"].append(picture)
    found = "; ".join(f"{fault} {list_names(names, 100)}" for fault, names in faults.items() if names)
    if found:
        raise DataError(f"pictures in {root}: {found}. {remedy[0].upper()}{remedy[1:]}")
