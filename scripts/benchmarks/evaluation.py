"""What evaluation costs beside a bare loop: the model in evaluation mode on the same batches, its output unread.

    python scripts/benchmark.py eval --dataset CREMAD --synthetic --batch_size 16
    python scripts/benchmark.py eval --dataset GRID --methods joint greedy g2d

A round is one pass of each over the same batches of the test split, read before. `engine.evaluate.predict` adds to the
loop the unimodal read-outs, losses and predictions of every sample, and their way to the host. Other flags are those of
`step`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dataset.base import Batch
from engine.evaluate import predict
from methods import METHODS
from methods.run import Run
from scripts.benchmarks.runs import BATCHES, add_synthetic, begin, few
from scripts.benchmarks.step import flags_of
from scripts.benchmarks.timing import Report, clock, compare, in_turn
from utils.precision import autocast

OURS = {"--method": "name what to compare by --methods"}


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument(
        "--methods", choices=METHODS, nargs="+", default=["joint"], metavar="NAME", help="default: joint"
    )
    add_synthetic(parser)


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """Evaluation of every method that `asked` names, under main.py's flags `words`.

    Raises:
        RunError: if a method cannot be built or the data cannot be read.
    """
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        flags = flags_of(asked.dataset, asked.methods, words, Path(folder))
        for name in asked.methods:
            run, method, splits = begin(flags[name], asked.synthetic)
            data = few(splits.test, BATCHES * run.args.batch_size)
            batches = [batch.to(run.device) for batch in run.loader(data, shuffle=False)]
            forward = autocast(run.device, run.args.precision)(method.forward)
            works = [partial(bare_pass, run, batches), partial(predict, run.model, forward, batches, run.device)]
            rounds = in_turn([clock(run.device, work) for work in works], 1, asked.rounds, name)
            rows.append(compare(name, "bare", rounds, "ms a pass", 1000))
            raw[name] = {"seconds": rounds}
    args = run.args
    title = (
        f"Evaluation on {asked.dataset}{' (random inputs)' * asked.synthetic}, {len(batches)} batches of at most "
        f"{args.batch_size}, on {run.device}, {args.precision}: {asked.rounds} passes of each, in turn with a bare "
        "loop."
    )
    return Report(title, run.device, {"batches": len(batches), "rows": raw}, [rows])


@torch.no_grad()
def bare_pass(run: Run, batches: Sequence[Batch]) -> None:
    """One pass over the batches, the logits unread."""
    run.model.eval()
    for batch in batches:
        with autocast(run.device, run.args.precision):
            run.model.fuse(run.model.encode(batch.inputs))
