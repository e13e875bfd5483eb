"""A trained model from its checkpoint, its data, and the flags of the programs that look at it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dataset import DATASETS
from dataset.base import MultimodalDataset
from dataset.loader import make_loader
from dataset.registry import listed
from engine.setup import choose_device, remake_method
from methods import Method
from utils.errors import RunError
from utils.runs.checkpoint import class_numbers, load_checkpoint


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add where and how the data of a trained model are read."""
    parser.add_argument("--data_root", help="where the data lie now, if not where they were")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")


def places(args: argparse.Namespace) -> argparse.Namespace:
    """The flags of `add_flags`, as the arguments of a run have them."""
    return argparse.Namespace(data_root=args.data_root, workers=args.workers, device=choose_device(args))


@dataclass(frozen=True)
class Trained:
    """A method with its trained model, and the data by which it is looked at.

    `state`: its checkpoint; `numbers`: the model's number of each class, in the order of the data's own numbers. Data
    that come from here have the model's numbers, whatever theirs are.
    """

    method: Method
    state: dict
    numbers: Sequence[int]
    flags: argparse.Namespace

    @property
    def args(self) -> argparse.Namespace:
        """The arguments of the run, with the data and caches of now."""
        return self.method.args

    @property
    def source(self) -> type[MultimodalDataset]:
        """The data set."""
        return DATASETS[self.args.dataset]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.flags.device)

    def splits(self) -> Sequence[Any]:
        """Rows of the training split, of the test split, and maybe of another."""
        return self.source.read_splits(self.args)

    def data(self, rows, modalities: tuple[str, ...] | None = None) -> MultimodalDataset:
        """A split's `rows` as evaluation sees them, without augmentation; by default in the model's modalities.

        Raises:
            DataError: if anything of it is missing on disk.
        """
        plain = self.source(self.args, rows, modalities or self.method.model.modalities, train=False)
        return plain.renumbered(self.numbers)

    def labelled(self, rows) -> Dataset:
        """The training split's `rows` as `data` has them; of a run with --train_list the samples of its list alone.

        Raises:
            DataError: as `data`, and if the list cannot be read or is not of this split.
        """
        return listed(self.args, self.data(rows))

    def loader(self, data: Dataset) -> DataLoader:
        """Batches of `data` in their order."""
        return make_loader(data, self.args.batch_size, self.flags.workers, pin=self.device.type == "cuda")


def restore(path: Path, flags: argparse.Namespace) -> Trained:
    """The checkpoint at `path`, with its model on `flags.device`; `flags`: those of `add_flags`.

    Raises:
        RunError: if it cannot be read, and as `rebuild`.
    """
    return rebuild(load_checkpoint(path), path, flags)


def rebuild(state: dict, path: Path, flags: argparse.Namespace) -> Trained:
    """`restore` from a checkpoint's content.

    Raises:
        RunError: if the run is none of main.py's, the weights are those of another model, or the data's classes others
            by name.
    """
    args = argparse.Namespace(**state["args"])
    if args.dataset not in DATASETS:
        raise RunError(
            f"{path} is of --dataset {args.dataset}, which main.py does not have: give one of its runs, or register "
            "the data set (docs/EXTENDING.md)"
        )
    args.data_root = flags.data_root or args.data_root
    args.cache = "none"  # the data set is read once, or with other noise every time
    numbers = class_numbers(state, path, DATASETS[args.dataset].class_names(args), args.data_root)
    return Trained(remake_method(args, state, path, torch.device(flags.device)), state, numbers, flags)
