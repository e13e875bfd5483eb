"""Seconds of an epoch of training: reading the data, the steps, and what a method does between them.

    python scripts/benchmark.py epoch --dataset CREMAD --data_root data/CREMAD --workers 4
    python scripts/benchmark.py epoch --dataset GRID --methods inforeg valuation g2d --against joint

An epoch is the training loop's, with the progress bar and without the evaluation that follows it: the eighth, with the
prime learning windows open. Epochs of the method and of the reference take turns; the first of each is not counted.
Flags are those of `step`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engine.train import train_epoch
from methods import METHODS, Method
from methods.run import Run
from scripts.benchmarks.runs import add_synthetic, begin, open_windows
from scripts.benchmarks.step import flags_of
from scripts.benchmarks.timing import Report, clock, compare, in_turn

OURS = {"--method": "name what to compare by --methods"}


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument(
        "--methods", choices=METHODS, nargs="+", default=["inforeg"], metavar="NAME", help="default: inforeg"
    )
    parser.add_argument("--against", choices=METHODS, default="joint", metavar="NAME", help="default: joint")
    add_synthetic(parser)


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """Epochs of every method that `asked` names, under main.py's flags `words`.

    Raises:
        RunError: if a method cannot be built or the data cannot be read.
    """
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        flags = flags_of(asked.dataset, [asked.against, *asked.methods], words, Path(folder))
        run, method, _ = begin(flags[asked.against], asked.synthetic)
        reference = clock(run.device, partial(one_epoch, run, method))
        for name in asked.methods:
            other = clock(run.device, partial(one_epoch, *begin(flags[name], asked.synthetic)[:2]))
            rounds = in_turn([reference, other], 1, asked.rounds, name)
            rows.append(compare(name, asked.against, rounds, "s an epoch", 1))
            raw[name] = {"seconds": rounds}
    args = run.args
    title = (
        f"Epochs of training on {asked.dataset}{' (random inputs)' * asked.synthetic}: {len(run.train)} samples in "
        f"batches of {args.batch_size}, {args.workers} loader process(es), on {run.device}, {args.precision}; "
        f"{asked.rounds} of each, in turn with {asked.against}."
    )
    return Report(title, run.device, {"against": asked.against, "samples": len(run.train), "rows": raw}, [rows])


def one_epoch(run: Run, method: Method) -> None:
    """Train for an epoch, and leave the method as it was before."""
    train_epoch(run, method)
    method.on_epoch_end(run)
    open_windows(method)  # as before: the epoch has added its traces
