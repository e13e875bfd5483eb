"""AV-MNIST: written and spoken digits, as data/prepare_avmnist.py pairs them, or the files that circulate.

<root>/train.npz, test.npz: image (N, 28, 28), audio (N, bins, steps), label and ids (N,); or, as MultiBench reads them,
<root>/image/{train,test}_data.npy, audio/{train,test}_data.npy and {train,test}_labels.npy
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from dataset.arrays import Arrays, Rows, headers, moments, opened, read, standardise
from models.encoders import RESNETS, ConvNet
from utils.errors import DataError, list_names, warn

ENCODERS = {"convnet": ConvNet, **RESNETS}
NAMES = ("audio", "image")
CIRCULATING = (
    "the files of AV-MNIST that circulate pair sounds and digits wrongly in part, so that sound alone stays near 42 %: "
    "quote nothing from them as what sound can do (data/README.md), and make pairs by data/prepare_avmnist.py"
)


class AVMNIST(Arrays):
    """One split. Sample: ({"audio": (1, bins, steps), "image": (1, 28, 28)}, digit, position in the split).

    Both have mean 0 and deviation 1 over the training split, all places of a picture together.
    """

    classes = tuple("0123456789")
    protocol = "ours"
    defaults = dict(
        data_root="data/AVMNIST", batch_size=64, epochs=30, optimizer="sgd", lr=1e-2, momentum=0.9,
        weight_decay=1e-4, lr_step=20, lr_gamma=0.1, workers=0,
    )  # fmt: skip
    forms = dict.fromkeys(NAMES, "values")

    def __init__(self, args, rows: Rows, modalities: Sequence[str], train: bool):
        super().__init__(args, {name: rows.arrays[name] for name in modalities}, rows.names, rows.targets, train)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--encoder", choices=ENCODERS, default="convnet", help="convnet: a small one for CPUs; resnet18: papers'"
        )

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        return dict.fromkeys(NAMES, partial(ENCODERS[args.encoder], channels=1))

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return cls.classes

    @classmethod
    def read_splits(cls, args) -> list[Rows]:
        """Training and test split, checked and standardised."""
        paths = cls.split_files(args)
        if len(paths) > 2:
            warn(CIRCULATING)
            splits = [read_npy(Path(args.data_root), split) for split in ("train", "test")]
            for name in NAMES:
                one, other = (rows.arrays[name].shape[-1] for rows in splits)
                if one != other:
                    raise DataError(f"{args.data_root}/{name}: sides of {one} in train, {other} in test: get it again")
        else:
            with opened(paths[0]) as file:
                shapes = {name: shape[1:] for name, (shape, _) in headers(file).items() if name in NAMES}
            if absent := [name for name in NAMES if len(shapes.get(name, ())) != 2]:
                raise DataError(f"{paths[0]}: no {', '.join(absent)} (N, height, width): prepare it again")
            splits = [read(path, shapes, len(cls.classes)) for path in paths]
            for name in NAMES:
                for rows in splits:
                    rows.arrays[name] = rows.arrays[name].unsqueeze(1)
        if both := sorted({*splits[0].names} & {*splits[1].names}):
            raise DataError(f"{args.data_root}: pairs in both train and test, {list_names(both)}: prepare it again")
        for name in NAMES:
            mean, deviation = moments(splits[0].arrays[name].flatten().unsqueeze(1))
            standardise([rows.arrays[name] for rows in splits], mean, deviation)
        return splits

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """train.npz and test.npz or, where the root has a folder `image`, the six files that circulate."""
        root = Path(args.data_root)
        if not (root / "image").is_dir():
            return [root / "train.npz", root / "test.npz"]
        return [path for split in ("train", "test") for path in files_of(root, split).values()]


def files_of(root: Path, split: str) -> dict[str, Path]:
    """The files of a split that circulates."""
    return {name: root / name / f"{split}_data.npy" for name in NAMES} | {"label": root / f"{split}_labels.npy"}


def read_npy(root: Path, split: str) -> Rows:
    """A split of the files that circulate, pictures of 784 values as squares.

    Raises:
        DataError: if a file is missing, damaged, holds Python objects or does not fit the labels.
    """
    held = {}
    for name, path in files_of(root, split).items():
        try:
            with path.open("rb") as file:  # np.load would take an archive, too
                held[name] = np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"{path} is missing: get the data as data/README.md says, or set --data_root") from None
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise DataError(f"{path} is damaged ({error}): get it again") from error
    label = held.pop("label")
    if label.dtype.kind not in "iu" or label.ndim != 1 or not label.size or not set(label.tolist()) <= set(range(10)):
        raise DataError(f"{root}: {split}_labels.npy must be (N,) digits: get it again")
    arrays = {}
    for name, array in held.items():
        side = side_of(array.shape)
        if not side or len(array) != len(label) or array.dtype.kind not in "fiu":
            raise DataError(
                f"{files_of(root, split)[name]} is {array.shape} {array.dtype}, not {len(label)} squares: get it again"
            )
        with np.errstate(over="ignore"):  # what is too large for 32 bits is found below
            arrays[name] = torch.from_numpy(array.astype(np.float32).reshape(-1, 1, side, side))
        if not arrays[name].isfinite().all():
            raise DataError(f"{files_of(root, split)[name]} has values that are not finite: get it again")
    return Rows(arrays, [f"{split}{number}" for number in range(len(label))], label.tolist())


def side_of(shape: Sequence[int]) -> int:
    """The side of the squares in an array (N, side, side) or (N, pixels), axes of 1 apart; 0 for what is no squares."""
    axes = [length for length in shape[1:] if length != 1]
    side = math.isqrt(math.prod(axes))
    return side if axes in ([side, side], [side * side]) else 0
