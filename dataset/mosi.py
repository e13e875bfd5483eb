"""CMU-MOSI and CMU-MOSEI: the sentiment of spoken utterances, from series of vision, audio and text features.

<root>/series.npz, as data/prepare_mosi.py writes it:
<part>_<modality> (N, T, d) float32, <part>_score (N,) in [-3, 3], <part>_id (N,); parts train, test and maybe valid
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from dataset.arrays import Arrays, headers, opened, sample_names
from models.encoders import Transformer
from utils.errors import DataError, list_names

NAMES = ("vision", "audio", "text")  # MultiBench's order
# Convention -> the classes in the order of their numbers, and the number of a score.
LABELS = {
    "binary_positive": (("not_positive", "positive"), lambda score: score > 0),
    "binary_nonnegative": (("negative", "not_negative"), lambda score: score >= 0),
    "three": (("negative", "neutral", "positive"), lambda score: np.sign(score) + 1),
}


class MOSI(Arrays):
    """One part. Sample: ({modality: (T, d)}, class number, position in the part).

    The features are used as they are, without normalisation, as in MultiBench. T and d are those of the file and may
    differ from modality to modality. Where the file has a part `valid`, it selects the epoch.
    """

    protocol = "MultiBench's late fusion of transformers; the paper gives none"
    defaults = dict(
        data_root="data/MOSI", batch_size=32, epochs=100, optimizer="adamw", lr=1e-4, momentum=0.9, weight_decay=0.01,
        lr_step=100, lr_gamma=0.1,
    )  # fmt: skip
    forms = dict.fromkeys(NAMES, "values")

    def __init__(self, args, part: str, modalities: Sequence[str], train: bool):
        classes, number = LABELS[args.labels]
        with opened(file_of(args)) as file:
            names = file[f"{part}_id"].tolist()
            read = {name: torch.from_numpy(file[f"{part}_{name}"]) for name in ("score", *modalities)}
        if broken := [name for name, x in read.items() if not x.isfinite().all()]:
            said = f"values that are not finite in {part} {', '.join(broken)}"
            raise DataError(f"{file_of(args)}: {said}: prepare it again")
        targets = number(read.pop("score").numpy()).astype(int).tolist()
        super().__init__(args, read, names, targets, train)
        if absent := [label for k, label in enumerate(classes) if k not in self.targets]:
            raise DataError(f"{file_of(args)}: no utterance of {part} is {', '.join(absent)}; choose other --labels")

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        """What makes the encoder of each modality that is used, in their order.

        Raises:
            DataError: if the file, whose feature counts decide about the encoders, is missing or damaged.
        """
        shapes = shapes_of(file_of(args))
        widths = dict(zip(NAMES, map(int, args.widths.split(",")), strict=True)) if args.widths else {}
        features = {name: shapes[f"train_{name}"][2] for name in args.modalities.split(",")}
        return {name: partial(Transformer, d, widths.get(name) or default_width(d)) for name, d in features.items()}

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return LABELS[args.labels][0]

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--labels", choices=LABELS, default="binary_positive",
            help="classes made of the scores: above 0 or not (MultiBench's classification), from 0 or not, or the sign",
        )  # fmt: skip
        group.add_argument(
            "--modalities", type=some_of_names, default=",".join(NAMES), help="two or more of them, between commas"
        )
        group.add_argument(
            "--widths", type=three_widths,
            help=f"of the transformers of {','.join(NAMES)}, multiples of 5, between commas; by default twice the "
            "features, up to a multiple of 10 (MultiBench: 40,10,600 for 20, 5, 300 features)",
        )  # fmt: skip

    @classmethod
    def read_splits(cls, args) -> tuple[str, ...]:
        """The parts: train, test and, where the file has it, valid. No utterance is there twice."""
        path = file_of(args)
        shapes = shapes_of(path)
        parts = [part for part in ("train", "test", "valid") if f"{part}_score" in shapes]
        with opened(path) as file:
            held = {part: sample_names(file, f"{part}_id", path, *shapes[f"{part}_score"]) for part in parts}
        seen: set[str] = set()
        for part, names in held.items():
            if both := [name for name in names if name in seen]:
                raise DataError(f"{path}: utterances of {part} that are in another part, too, {list_names(both)}")
            seen |= set(names)
        return tuple(parts)

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The one file, which holds the parts."""
        return [file_of(args)]


class MOSEI(MOSI):
    """The same files, about ten times as many utterances (Zadeh et al., ACL 2018)."""

    defaults = MOSI.defaults | {"data_root": "data/MOSEI"}


def default_width(features: int) -> int:
    """Twice the features, up to a multiple of 10 (MultiBench)."""
    return -(-2 * features // 10) * 10


def some_of_names(text: str) -> str:
    """The type of --modalities: two or three of NAMES, in their order."""
    chosen = text.split(",")
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(NAMES):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two or three of {','.join(NAMES)}; one alone is --method unimodal --modality NAME"
        )
    return ",".join(name for name in NAMES if name in chosen)


def three_widths(text: str) -> str:
    """The type of --widths: three multiples of 5."""
    widths = [int(word) if word.isascii() and word.isdigit() else 0 for word in text.split(",")]
    if len(widths) != len(NAMES) or not all(width > 0 and width % 5 == 0 for width in widths):
        raise argparse.ArgumentTypeError(f"{text!r} is not three multiples of 5, those of {','.join(NAMES)}")
    return text


def file_of(args) -> Path:
    """The file of all series below --data_root."""
    return Path(args.data_root) / "series.npz"


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array, from their headers alone.

    Raises:
        DataError: if an array is missing, of another type, or does not fit the others.
    """
    shapes, wrong = {}, []
    with opened(path) as file:
        for name, (shape, dtype) in headers(file).items():
            shapes[name] = shape
            if dtype != np.float32 and not name.endswith("_id"):
                wrong.append(name)
    for part in ("train", "test", *(["valid"] if "valid_score" in shapes else [])):
        count = shapes.get(f"{part}_score")
        wanted = {f"{part}_{name}": count + shapes.get(f"train_{name}", ())[1:] for name in NAMES} if count else {}
        wrong += [name for name, shape in wanted.items() if shapes.get(name) != shape or len(shape) != 3]
        wrong += [name for name in (f"{part}_score", f"{part}_id") if not count or shapes.get(name) != count]
    if wrong:
        raise DataError(f"{path}: arrays missing, or of another shape or type than the others, {list_names(wrong)}")
    return shapes
