"""Packing data into shards, and reading them as a run does."""

from functools import partial

import pack_shards
import torch
from helpers.preparing import status_of
from helpers.runs import CLIPS, flags

from dataset import build
from engine.parser import parse

TRAIN, WINDOW = CLIPS * 3 // 4, 16  # samples of an epoch, and of the window
MODALITIES = ("audio", "visual")


def run(*words):
    """Exit status of data/pack_shards.py."""
    return status_of(partial(pack_shards.main, [str(word) for word in words]))


def pack(root, out, *more):
    assert run("--data_root", root, "--out", out, *more) == 0
    return out


def pattern(out):
    names = sorted(path.stem for path in out.glob("*.tar"))
    return f"{out}/{{{names[0]}..{names[-1]}}}.tar"


def tree(folder):
    """What the shards and what is beside them hold; hidden files have the times of what was packed."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def splits(root, *more, held_out=0.0):
    """As a run reads them; with all four frames of a clip, two of which are drawn."""
    more = ("--frames", "2", *more)
    return build(parse(flags(root, "unused", *more)), MODALITIES, held_out)


def samples(loader):
    """{index: (inputs, target)}, and the indices in the order of the loader."""
    found, order = {}, []
    for batch in loader:
        for row, index in enumerate(batch.index.tolist()):
            found[index] = {name: x[row] for name, x in batch.inputs.items()} | {"target": batch.target[row]}
            order.append(index)
    return found, order


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[i][name], other[i][name]) for i in one for name in one[i])
