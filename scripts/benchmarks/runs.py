"""Runs as they are in their eighth epoch with every prime learning window open, where each method acts by default."""

import argparse
import itertools
from collections.abc import Callable, Sequence

import torch
from torch.utils.data import Dataset, Subset

from dataset import build
from dataset.base import Batch, Splits
from engine.parser import parse
from engine.setup import choose_device, make_method, make_optimizer, make_ready
from methods import Method
from methods.run import Run
from scripts.benchmarks.synthetic import random_splits
from utils.errors import RunError
from utils.runs.generators import seed_everything

BATCHES = 4  # that steps take in turn
EPOCH = 7  # from 0; the defaults' longest warm-up, OPM's, is of six epochs
Data = Callable[[argparse.Namespace, tuple[str, ...], float], Splits]  # of arguments, modalities and a share withheld


def begin(
    argv: Sequence[str], synthetic: bool = False, plain: bool = False, data: Data | None = None, epoch: int = EPOCH
) -> tuple[Run, Method, Splits]:
    """A run, its method and its data, set up as main.py does for the command line `argv`, before `epoch`.

    `synthetic`: on BATCHES batches of random numbers in place of the data set's; `data` makes others. `plain`: with
    weights in contiguous memory, and an optimizer that takes one after another.
    """
    args = parse(list(argv))
    device = choose_device(args)
    method = make_method(args)
    model = method.model
    make_ready(args, model, device)
    if plain:
        model.to(memory_format=torch.contiguous_format)
    if data:
        splits = data(args, model.modalities, method.held_out)
    elif synthetic:
        splits = random_splits(args, model.modalities, method.held_out, BATCHES * args.batch_size)
    else:
        splits = build(args, model.modalities, method.held_out)
    optimizer = make_optimizer(args, model)
    if plain:
        for group in optimizer.param_groups:
            group.update(foreach=False, fused=False)
    run = Run(args, model, optimizer, splits.train, splits.held_out, splits.val, device, epoch, splits.plain)
    seed_everything(args.seed)
    open_windows(method, epoch)
    method.on_fit_start(run)
    return run, method, splits


def open_windows(method: Method, epoch: int = EPOCH) -> None:
    """Traces that double from epoch to epoch open every window."""
    traces = {name: [2.0**i for i in range(epoch)] for name in method.model.modalities}
    method.trace.load_state_dict({"history": traces})


def prepare(argv: Sequence[str], synthetic: bool = False, plain: bool = False) -> tuple[Run, Method, list[Batch]]:
    """A method before a step of that epoch, and batches of it, read and on the device. The data are cut to these.

    Raises:
        RunError: if the training split does not fill a batch.
    """
    run, method, splits = begin(argv, synthetic, plain)
    size = run.args.batch_size
    for part in ("train", "held_out", "plain"):
        data = getattr(run, part)
        setattr(run, part, data and few(data, BATCHES * size))
    method.on_epoch_start(run)
    loader = run.loader(method.train_data(run))
    batches = [batch.to(run.device) for batch in itertools.islice(loader, BATCHES) if len(batch) == size]
    if not batches:
        raise RunError(f"--batch_size {size}: the training split has only {len(splits.train)} samples")
    run.model.train()
    return run, method, batches


def few(data: Dataset, wanted: int) -> Subset:
    """`wanted` samples at most, spread evenly over `data`."""
    return Subset(data, range(len(data))[:: max(1, len(data) // wanted)][:wanted])


def add_synthetic(parser: argparse.ArgumentParser) -> None:
    """Add the flag that asks for random inputs."""
    parser.add_argument("--synthetic", action="store_true", help="random inputs in the shapes of the data set, unread")
