"""Samples per second of the loader, for each value of --cache that the data set has.

    python scripts/benchmark.py data --dataset CREMAD --synthetic --clips 64 --workers 0
    python scripts/benchmark.py data --dataset CREMAD --synthetic --clips 64 --workers 0 --host
    python scripts/benchmark.py data --dataset CREMAD --data_root data/CREMAD --samples 512 --workers 1

A round is one pass over --samples samples of the training split, batch after batch to the device, as training takes
them; the modes take turns. --workers is main.py's: 0 reads in this process, so that the rate is that of one core. What
a mode does before the first epoch is shown apart: seconds until the data set is built (none: its files are checked),
and what it then takes of memory, of the disk below --data_root, and of the GPU.

The row `public` is a loader as this field writes it (scripts/benchmarks/public.py), where the sound is a spectrogram of
a file in a folder; ratios are over it, otherwise over the first mode. --synthetic generates clips like CREMA-D's in a
temporary folder.
"""

import argparse
import gc
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from dataset import DATASETS, build
from dataset.workers import Loader
from engine.parser import make_parser, parse
from engine.setup import choose_device
from methods.run import Run
from scripts.benchmarks.public import PublicClips, has_public_loader
from scripts.benchmarks.runs import few
from scripts.benchmarks.synthetic import write_clips
from scripts.benchmarks.timing import Report, clock, in_turn, median_of, range_of
from utils.errors import CombinationError, RunError
from utils.numbers import positive
from utils.runs.setting import options_of

OURS = {"--method": "the loader is the same for every method", "--cache": "every value of it is measured"}


@dataclass
class Use:
    """The resources in use at a moment, or what was added between two moments."""

    seconds: float
    memory: int  # bytes, here and below
    disk: int
    gpu: int

    def __sub__(self, before: "Use") -> "Use":
        return Use(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))

    def __str__(self) -> str:
        kinds = {"memory": self.memory, "disk": self.disk, "GPU": self.gpu}
        return ", ".join(f"{size / 2**20:.0f} MiB of {kind}" for kind, size in kinds.items() if size >= 2**20) or "-"


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument("--samples", type=positive, default=256, help="of a pass, at most (default: 256)")
    parser.add_argument("--synthetic", action="store_true", help="generate clips like CREMA-D's, read these")
    parser.add_argument(
        "--host", action="store_true",
        help="what the host does alone: with --cache disk or device the rest of the work is the GPU's",
    )  # fmt: skip
    parser.add_argument("--clips", type=positive, default=64, help="that --synthetic generates (default: 64)")


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """Every mode, under main.py's flags `words`.

    Raises:
        RunError: if the data are not there, or no mode is for them.
    """
    if asked.synthetic and asked.dataset == "demo":
        raise RunError("demo generates its own clips: leave --synthetic away")
    argv = ["--dataset", asked.dataset, "--method", "joint", *words]
    with ExitStack() as stack:
        if asked.synthetic:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_clips(folder, parse(argv), asked.clips)
            argv += ["--data_root", str(folder)]
        args = parse(argv)
        device = choose_device(args)
        passes, uses, notes = {}, {}, []
        for mode in modes(asked.dataset):
            name = mode or "as it is"
            try:
                run, uses[name] = prepared([*argv, "--cache", mode] if mode else argv, device, asked.samples)
            except CombinationError as error:
                notes.append(f"No row `{name}`: {error}.")
            else:
                passes[name] = partial(one_pass, run, asked.host)
        source = DATASETS[asked.dataset]
        if has_public_loader(source, args):
            clips = few(PublicClips(args, source, source.read_splits(args)[0]), asked.samples)
            loader = Loader(clips, batch_size=args.batch_size, shuffle=True, num_workers=args.workers)
            passes = {"public": partial(public_pass, loader, device, asked.host), **passes}
        else:
            notes.append("No row `public`: that loader makes spectrograms of the sound in a folder.")
        if not passes:
            raise RunError(" ".join(notes))
        clocks = [clock(device, work) for work in passes.values()]
        rounds = in_turn(clocks, 1, asked.rounds, "passes")
    seconds = {name: list(column) for name, column in zip(passes, zip(*rounds, strict=True), strict=True)}
    samples, first = len(run.train), next(iter(seconds))
    rows, raw = [], {}
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], taken, strict=True)]
        ready = {"ready after, s": f"{uses[name].seconds:.1f}", "takes": str(uses[name])} if name in uses else {}
        rows.append(
            {"loader": name, "samples a second": median_of([samples / s for s in taken], 1)}
            | {"ratio, median": median_of(ratios), "ratio, range": range_of(ratios)}
            | {"ready after, s": "-", "takes": "-"} | ready
        )  # fmt: skip
        raw[name] = {"seconds": taken, "ready": asdict(uses[name]) if name in uses else None}
    what = f"{asked.clips} generated clips as " * asked.synthetic + asked.dataset
    where = "on the host alone" if asked.host else f"to {device}"
    title = (
        f"Loading {what}: {samples} samples a pass, batches of {args.batch_size}, {args.workers} "
        f"worker process(es), {where}; {asked.rounds} passes of each, in turn; ratios over `{first}`."
    )
    return Report(title, device, {"samples": samples, "rows": raw}, [rows], notes)


def modes(dataset: str) -> list[str | None]:
    """The values of --cache, or one None where the data set has no such flag."""
    flag = options_of(make_parser(dataset, "joint")).get("--cache")
    return list(flag.choices) if flag else [None]


def prepared(argv: Sequence[str], device: torch.device, samples: int) -> tuple[Run, Use]:
    """A run's data, cut to `samples` after they have been made ready, and what that took."""
    args = parse(list(argv))
    before = use(args.data_root)
    splits = build(args, tuple(DATASETS[args.dataset].encoders(args)))
    taken = use(args.data_root) - before
    # Neither model nor optimizer: only the loader is asked for.
    return Run(args, None, None, few(splits.train, samples), None, None, device), taken


def use(data_root: str) -> Use:
    """What this process, the data's folder and the GPU hold now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # resident
    disk = sum(file.stat().st_size for file in Path(data_root).rglob("*") if file.is_file())
    gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return Use(perf_counter(), pages * os.sysconf("SC_PAGE_SIZE"), disk, gpu)


def one_pass(run: Run, host: bool) -> None:
    """Take every batch of an epoch as the training loop does; with `host` without the way to the device."""
    for batch in run.loader(run.train):
        if not host:
            batch.to(run.device)


def public_pass(loader: Loader, device: torch.device, host: bool) -> None:
    """`one_pass` of the loader as the field writes it."""
    for parts in loader:
        for part in parts if not host else ():
            part.to(device)
