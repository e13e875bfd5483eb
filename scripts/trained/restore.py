"""A trained model from its checkpoint, its data, and the flags of the programs that look at it."""

import argparse

import torch
from torch.utils.data import DataLoader

from dataset import DATASETS
from dataset.base import MultimodalDataset
from dataset.loader import make_loader
from engine.setup import choose_device, make_method
from methods import Method
from models.multimodal import place
from utils.runs.checkpoint import load_model


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_root", help="where the data lie now, if not where they were")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")


def places(args: argparse.Namespace) -> argparse.Namespace:
    """The flags of `add_flags`, as the arguments of a run have them."""
    return argparse.Namespace(data_root=args.data_root, workers=args.workers, device=choose_device(args))


def restore(state: dict, path, flags: argparse.Namespace) -> Method:
    """The method of the checkpoint `state`, read from `path`, with its trained model on `flags.device`.

    Raises:
        RunError: if the weights are those of another model.
    """
    args = argparse.Namespace(**state["args"])
    args.data_root = flags.data_root or args.data_root
    args.cache = "none"  # the data set is read once, or with other noise every time
    method = make_method(args)
    load_model(method.model, state, path)
    place(method.model, torch.device(flags.device))
    return method


def make_plain(args: argparse.Namespace, rows, modalities: tuple[str, ...]) -> MultimodalDataset:
    """A split's `rows` as evaluation sees them, without augmentation.

    Raises:
        DataError: if anything of it is missing on disk.
    """
    return DATASETS[args.dataset](args, rows, modalities, train=False)


def to_loader(data: MultimodalDataset, args: argparse.Namespace, flags: argparse.Namespace) -> DataLoader:
    """Batches of `data` in their order."""
    return make_loader(data, args.batch_size, flags.workers, pin=torch.device(flags.device).type == "cuda")


def plain_loader(args: argparse.Namespace, rows, modalities: tuple[str, ...], flags: argparse.Namespace) -> DataLoader:
    """Batches of a split's `rows` as evaluation sees them: in their order, without augmentation.

    Raises:
        DataError: if anything of it is missing on disk.
    """
    return to_loader(make_plain(args, rows, modalities), args, flags)
