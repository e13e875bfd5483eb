"""features: precomputed features, a vector or a series per sample and modality, for whoever has embeddings.

<root>/train.npz, test.npz and, if there is one, val.npz, each with
    <modality>   (N, D) or (N, T, D), any floating-point or whole numbers; any number of modalities, under any names
    label        (N,) class numbers from 0
    ids          (N,) what the samples are called; may be left out
    classes      (C,) the classes' names, in train.npz; may be left out, or stand in <root>/classes.txt, one a line
"""

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import torch.nn as nn

from dataset.arrays import REMEDY, Arrays, Rows, headers, labels, moments, opened, read, standardise, words
from dataset.lists import read_lines
from dataset.recipes.corrupt import EveryName
from models.encoders import MLP, Projection, Transformer
from utils.errors import DataError, list_names
from utils.numbers import positive

SPLITS = ("train", "test", "val")
OTHERS = ("label", "ids", "names", "classes")  # arrays that are no modality
HEADS = 4
# What a run's record has under these names is not a modality's.
TAKEN = {"accuracy", "balanced_accuracy", "ece", "loss", "macro_f1", "mAP", "majority"}
TAKEN |= {"any", "epoch", "fused", "joint", *dir(nn.ModuleDict())}


class Features(Arrays):
    """One split. Sample: ({modality: (D,) or (T, D)}, class number, position in the split).

    Each value is standardised by its mean and standard deviation over train.npz (of a series: over the steps, too),
    unless --standardise says otherwise; a value that is the same everywhere becomes 0.
    """

    protocol = "ours"
    defaults = dict(
        data_root="data/features", batch_size=64, epochs=30, optimizer="sgd", lr=1e-2, momentum=0.9,
        weight_decay=1e-4, lr_step=20, lr_gamma=0.1, workers=0,
    )  # fmt: skip
    forms = EveryName(any="values")

    def __init__(self, args, rows: Rows, modalities: Sequence[str], train: bool):
        self.forms = dict.fromkeys(rows.arrays, "values")
        try:
            super().__init__(args, {name: rows.arrays[name] for name in modalities}, rows.names, rows.targets, train)
        except argparse.ArgumentTypeError as error:  # the names were not known when the flags were read
            raise DataError(f"--train_noise {error}") from None

    @classmethod
    def refusal(cls, args) -> str | None:
        if args.encoder == "transformer" and args.hidden % HEADS:
            return f"--hidden {args.hidden}: --encoder transformer has {HEADS} heads, which must divide it"
        if args.encoder != "linear" and args.batch_size == 1:
            return "--batch_size 1: batch norm finds nothing to normalise in one sample; use --encoder linear"
        return super().refusal(args)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--modalities", type=some_names, metavar="NAME,NAME",
            help="which arrays, and in which order; without it all in the order of train.npz",
        )  # fmt: skip
        group.add_argument(
            "--encoder", choices=("mlp", "linear", "transformer"), default="mlp",
            help="mlp: layers with batch norm and ReLU; linear: one layer without either; of a series both read the "
            "mean over time, and transformer (MOSI's) all steps, where vectors have the mlp; ours",
        )  # fmt: skip
        group.add_argument("--hidden", type=positive, default=128, help="width of every layer of an encoder; ours")
        group.add_argument("--layers", type=positive, default=1, help="layers of mlp and transformer; ours")
        group.add_argument(
            "--standardise", choices=("train", "none"), default="train",
            help="by each value's mean and deviation over train.npz, or as the values are; ours",
        )  # fmt: skip

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        """What makes the encoder of each modality, in the order of --modalities or of train.npz.

        Raises:
            DataError: if train.npz is missing or damaged, or does not have the modalities.
        """
        shapes = shapes_of(args)
        if args.encoder == "transformer" and all(len(shape) == 1 for shape in shapes.values()):
            raise DataError(
                f"{file_of(args, 'train')}: --encoder transformer is for series (N, T, D), and {', '.join(shapes)} are "
                "vectors: use --encoder mlp"
            )
        return {name: encoder_of(args, shape) for name, shape in shapes.items()}

    @classmethod
    def class_names(cls, args) -> list[str]:
        """By classes.txt, or `classes` of train.npz, or the numbers as far as train.npz has them."""
        path, listed = file_of(args, "train"), Path(args.data_root) / "classes.txt"
        with opened(path, REMEDY) as file:
            if listed.is_file():
                path, names = listed, [line for _, line in read_lines(listed)]
            elif "classes" in file.files:
                names = words(file, "classes", path)
            else:
                found = labels(file, path)
                if max(found) >= len(found):
                    raise DataError(f"{path}: label has {max(found)}; number the classes from 0 without gaps")
                names = [str(number) for number in range(max(found) + 1)]
        if len(names) < 2 or len(set(names)) < len(names):
            raise DataError(f"{path} must hold two class names or more, each once: {REMEDY}")
        return names

    @classmethod
    def read_splits(cls, args) -> list[Rows]:
        """Training, test and, if there is one, validation split, checked and standardised."""
        shapes, classes = shapes_of(args), cls.class_names(args)
        splits = {split: read(file_of(args, split), shapes, len(classes)) for split in splits_of(args)}
        train = splits["train"]
        if absent := [name for number, name in enumerate(classes) if number not in set(train.targets)]:
            raise DataError(
                f"{file_of(args, 'train')}: label has no sample of {list_names(absent)}; leave unused classes out"
            )
        for one, other in combinations(splits, 2):
            if both := sorted({*splits[one].names} & {*splits[other].names}):
                raise DataError(
                    f"{args.data_root}: {one}.npz and {other}.npz have samples in common, {list_names(both)}; leave "
                    "them out of one"
                )
        if args.standardise == "train":
            for name, array in train.arrays.items():
                standardise([rows.arrays[name] for rows in splits.values()], *moments(array))
        return list(splits.values())

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The files of all splits, and of the classes' names if these are listed."""
        listed = Path(args.data_root) / "classes.txt"
        return [file_of(args, split) for split in splits_of(args)] + ([listed] if listed.is_file() else [])


def encoder_of(args, shape: Sequence[int]) -> Callable[[], nn.Module]:
    """What makes the encoder of samples of this shape, (D,) or (T, D)."""
    if args.encoder == "linear":
        return partial(Projection, shape[-1], args.hidden)
    if args.encoder == "transformer" and len(shape) == 2:
        return partial(Transformer, shape[-1], args.hidden, args.layers, HEADS)
    return partial(MLP, shape[-1], args.hidden, args.layers)


def some_names(text: str) -> str:
    """The type of --modalities: two names or more between commas."""
    names = text.split(",")
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two names or more between commas; one alone is --method unimodal --modality NAME"
        )
    return text


def file_of(args, split: str) -> Path:
    """The file of a split."""
    return Path(args.data_root) / f"{split}.npz"


def splits_of(args) -> list[str]:
    """The splits: train, test and, if it has a file, val."""
    return [split for split in SPLITS if split != "val" or file_of(args, split).is_file()]


def shapes_of(args) -> dict[str, tuple[int, ...]]:
    """{modality: shape of a sample}, of those that are used and in their order, by the headers of train.npz.

    Raises:
        DataError: if train.npz does not have them, or has fewer than two.
    """
    path = file_of(args, "train")
    with opened(path, REMEDY) as file:
        found = {name: shape for name, (shape, _) in headers(file).items() if name not in OTHERS}
    names = args.modalities.split(",") if args.modalities else list(found)
    if absent := [name for name in names if name not in found]:
        raise DataError(f"{path}: no array {absent[0]}, which --modalities names; there are {', '.join(found)}")
    if strange := [name for name in names if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or name in TAKEN]:
        raise DataError(
            f"{path}: array {strange[0]!r} cannot be a modality's name: call it by letters, digits and _, and not as a "
            "metric or a member of PyTorch's ModuleDict, or choose --modalities"
        )
    if len(names) < 2:
        raise DataError(f"{path}: only {', '.join(names) or 'label'}; two arrays of modalities or more are needed")
    if wrong := [f"{name} {found[name]}" for name in names if len(found[name]) not in (2, 3) or 0 in found[name]]:
        raise DataError(
            f"{path}: modalities are (N, D) or (N, T, D), none of it 0; not so {list_names(wrong)}; reshape them, or "
            "choose --modalities"
        )
    return {name: found[name][1:] for name in names}
