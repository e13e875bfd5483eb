"""The demo read through one of the caches."""

import torch
from helpers.runs import flags

from dataset import build
from dataset.loader import make_loader
from engine.parser import parse

CPU = torch.device("cpu")


def load(root, mode, *more, held_out=0.0, modalities=("audio", "visual"), places=None):
    places = ["--cache_root", str(places)] if places else []
    args = parse(flags(root, "out", "--method", "joint", "--frames", "2", "--cache", mode, *places, *more))
    return build(args, modalities, held_out)


def batches(data, **options):
    return [batch.to(CPU) for batch in make_loader(data, 10, **dict(workers=0) | options)]
