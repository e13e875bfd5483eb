"""Runs of localise.py that are small enough for a test: a few scenes of 32 pixels, three rounds of two passes."""

import contextlib
from pathlib import Path

import torch

from localisation.parser import parse
from models.encoders import ConvNet
from scripts import localise
from utils.distributed.processes import barrier

SMALL = "--scenes_solo 24 --scenes_mixed 16 --image_size 32 --clusters 4 --batch_size 10 --workers 0 --device cpu"
SHORT = {"train-solo": "--rounds 3 --passes 1 --lr 1e-3", "train-mix": "--epochs 2 --lr 1e-3"}


def words(command, out, *more):
    """A command line; `more` comes last, so it wins."""
    return [command, *SMALL.split(), *SHORT[command].split(), "--out", str(out), "--tag", "default", *more]


def folder_of(command, *more):
    """Where the run of a command line is written."""
    args = parse(command, list(more))
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"


def localised(command, out, *more):
    """Run it; its folder."""
    argv = words(command, out, *more)
    localise.main(argv)
    return folder_of(*argv)


def main(jobs):
    """What several processes do that have been started together: both stages, in float64."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    ConvNet.fold = lambda self, x: x.double()  # the data are float32
    join, localise.processes = localise.processes, contextlib.nullcontext
    with join():
        for argv in jobs:
            localise.main(argv)
            barrier()  # the next stage needs what the first process has written
