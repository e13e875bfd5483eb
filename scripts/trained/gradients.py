"""Cosine similarities between the gradients of different batches, at a checkpoint's weights."""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from dataset import build
from dataset.base import Batch, below
from dataset.loader import make_loader
from models.multimodal import MultimodalModel
from scripts.trained.restore import restore
from utils.errors import RunError
from utils.runs.generators import seed_everything

BATCHES = 20
CHUNK = 2**20  # weights whose products are summed at a time, in double precision


class Measured(NamedTuple):
    """{modality: (N, N) cosines between the gradients of N batches}, and whose window is open in the next epoch."""

    cosines: dict[str, np.ndarray]
    opened: tuple[str, ...]
    epochs: int  # of training so far


def measure(path: Path, flags: argparse.Namespace, batches: int = BATCHES) -> Measured:
    """The cosines at the checkpoint `path`, over at most so many batches; `flags`: those of `add_flags`.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or there are fewer than two full batches.
    """
    trained = restore(path, flags)
    method, state = trained.method, trained.state
    if "method" not in state:
        raise RunError(f"{path} holds no Fisher traces, which say whether the window is open: give last.pt")
    method.trace.load_state_dict(state["method"]["trace"])
    args, model, epoch = method.args, method.model, state["epoch"] + 1
    data, at = below(build(args, model.modalities, method.held_out).train)
    train = Subset(data.renumbered(trained.numbers), at)
    if len(train) < 2 * args.batch_size:
        raise RunError(f"{path}: {len(train)} training samples are not two full batches of {args.batch_size}")
    seed_everything(args.seed)  # for dropout
    loader = make_loader(train, args.batch_size, flags.workers, args.seed, epoch, shuffle=True)
    full = itertools.islice((batch for batch in loader if len(batch) == args.batch_size), batches)
    vectors = gradients(model, (batch.to(trained.device) for batch in full))
    opened = tuple(name for name in model.modalities if method.window.is_open(name))
    return Measured({name: cosines(each) for name, each in vectors.items()}, opened, epoch)


def gradients(model: MultimodalModel, batches: Iterable[Batch]) -> dict[str, list[Tensor]]:
    """{modality: the gradient of L_joint over its encoder's parameters, flat, for each batch}."""
    parameters = {name: list(encoder.parameters()) for name, encoder in model.encoders.items()}
    vectors: dict[str, list[Tensor]] = {name: [] for name in parameters}
    model.requires_grad_().train()  # of a frozen encoder, too
    for batch in batches:
        loss = F.cross_entropy(model.fuse(model.encode(batch.inputs)), batch.target)
        grads = iter(torch.autograd.grad(loss, sum(parameters.values(), []), materialize_grads=True))
        for name, weights in parameters.items():
            vectors[name].append(torch.cat([next(grads).flatten() for _ in weights]))
    return vectors


def cosines(vectors: Sequence[Tensor]) -> np.ndarray:
    """(N, N) cosine similarities of N vectors; NaN for one of zeros."""
    products = sum(
        part @ part.T
        for start in range(0, len(vectors[0]), CHUNK)
        for part in [torch.stack([vector[start : start + CHUNK] for vector in vectors]).double()]
    )
    norms = products.diagonal().sqrt()
    return (products / norms.outer(norms)).cpu().numpy()


def pairs(matrix: np.ndarray) -> np.ndarray:
    """The cosines of two different batches, each pair once."""
    return matrix[np.triu_indices(len(matrix), k=1)]


def summary(values: np.ndarray) -> str:
    """Mean and standard deviation, as text."""
    return f"{values.mean():+.3f} ± {values.std():.3f}"
