"""Whether the gradients of different batches point the same way: the paper's Figure 4, from a checkpoint.

    python scripts/gradients.py results/GRID/joint/default/seed0/last.pt --batches 20

For each encoder the gradients of L_joint over the first batches of the epoch that would come next, at the checkpoint's
weights, in training mode, in single precision; then the cosine similarity of every pair. Only full batches count, so
that all have the same noise. Prints mean, standard deviation and range over the pairs, and writes
figures/gradients.svg and gradients.csv beside the checkpoint. On the device lie as many copies of the encoders'
gradients as there are batches.
"""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from dataset import build
from dataset.base import Batch
from dataset.loader import make_loader
from models.multimodal import MultimodalModel
from scripts.drawing.pictures import Picture, Runs, save
from scripts.trained.restore import add_flags, places, restore
from utils.errors import RunError, one_sentence
from utils.numbers import positive
from utils.runs.checkpoint import load_checkpoint
from utils.runs.generators import seed_everything
from utils.runs.plots import style

BATCHES = 20
CHUNK = 2**20  # weights whose products are summed at a time, in double precision


class Measured(NamedTuple):
    """{modality: (N, N) cosines between the gradients of N batches}, and the modalities with an open window."""

    cosines: dict[str, np.ndarray]
    opened: tuple[str, ...]
    epoch: int  # from 1: the one that would come next


def main(argv: list[str] | None = None) -> dict[str, np.ndarray]:
    """Measure one checkpoint; returns {modality: (N, N) cosines}.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or there are fewer than two full batches.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="last.pt of a run")
    parser.add_argument("--batches", type=positive, default=BATCHES, help=f"at most (default: {BATCHES})")
    add_flags(parser)
    own = parser.parse_args(argv)
    measured = measure(own.checkpoint, own, own.batches)
    for name, matrix in measured.cosines.items():
        found = pairs(matrix)
        print(f"{name:>8}: {summary(found)}, {found.min():+.3f} to {found.max():+.3f} over {len(found)} pairs")
    folder = own.checkpoint.resolve().parent
    runs = Runs("", argparse.Namespace(), [folder])
    path = folder / "figures" / "gradients.svg"
    save(picture([runs], [[measured]]), path)
    print(f"written: {path}")
    return measured.cosines


def figure4(rows: Sequence[Runs]) -> Picture:
    """The cosines at the last weights of every run."""
    with tqdm(total=sum(len(runs.folders) for runs in rows), desc="gradients", unit="run", disable=None) as bar:

        def each(runs: Runs, folder: Path) -> Measured:
            measured = measure(folder / "last.pt", places(runs.args), BATCHES)
            bar.update()
            return measured

        return picture(rows, [[each(runs, folder) for folder in runs.folders] for runs in rows])


def picture(rows: Sequence[Runs], measured: Sequence[Sequence[Measured]]) -> Picture:
    """`measured`: by row and seed. A line of panels for each row: the first seed's matrices, and all seeds' pairs."""
    names = tuple(measured[0][0].cosines)
    figure = Figure(figsize=(1 + 3.6 * (len(names) + 1), 3.6 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(names) + 1, squeeze=False)
    numbers: list[Sequence] = []
    for runs, seeds, line in zip(rows, measured, axes, strict=True):
        *matrices, histogram = line
        pooled = {name: np.concatenate([pairs(of.cosines[name]) for of in seeds]) for name in names}
        for axis, name in zip(matrices, names, strict=True):
            matrix, count = seeds[0].cosines[name], len(seeds[0].cosines[name]) + 0.5
            image = axis.imshow(matrix, "RdBu_r", vmin=-1, vmax=1, extent=(0.5, count, count, 0.5))
            state = "open" if name in seeds[0].opened else "closed"
            axis.set(xlabel="batch", ylabel="batch", title=f"{name}, epoch {seeds[0].epoch}, window {state}")
            for ticks in (axis.xaxis, axis.yaxis):
                ticks.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=matrices, label="cosine similarity", shrink=0.8)
        bins = np.histogram_bin_edges(np.concatenate(list(pooled.values())), bins=30)
        for place, (name, found) in enumerate(pooled.items()):
            look = {key: value for key, value in style(place).items() if key != "marker"}
            share = np.full(len(found), 100 / len(found))
            histogram.hist(found, bins, weights=share, histtype="step", label=f"{name}: {summary(found)}", **look)
        histogram.axvline(0, color="grey", linewidth=1)
        histogram.set(xlabel="cosine similarity of two batches", ylabel="share of the pairs (%)", title=runs.label)
        histogram.margins(y=0.3)  # room for the legend
        histogram.spines[["top", "right"]].set_visible(False)
        histogram.legend(frameon=False, fontsize="small")
        for folder, of in zip(runs.folders, seeds, strict=True):
            for name, matrix in of.cosines.items():
                for one, other in zip(*np.triu_indices(len(matrix), k=1), strict=True):
                    where = (runs.label, folder.name, of.epoch, name, name in of.opened)
                    numbers.append((*where, one + 1, other + 1, float(matrix[one, other])))
    first, count = rows[0].folders[0].name, len(rows[0].folders)
    note = f"{first}'s matrices, mean ± standard deviation of the pairs" + (f" of {count} seeds" if count > 1 else "")
    header = ("setting", "run", "epoch", "modality", "window_open", "batch", "other_batch", "cosine")
    return Picture(figure, note, header, numbers)


def measure(path: Path, own: argparse.Namespace, batches: int) -> Measured:
    """The cosines at the checkpoint `path`, read by the flags of `add_flags` in `own`.

    Raises:
        RunError: as main.
    """
    state = load_checkpoint(path)
    method = restore(state, path, own)
    if "method" not in state:
        raise RunError(f"{path} holds no Fisher traces, which say whether the window is open: give last.pt")
    method.trace.load_state_dict(state["method"]["trace"])
    args, model, epoch = method.args, method.model, state["epoch"] + 1
    train = build(args, model.modalities, method.held_out).train
    if len(train) < 2 * args.batch_size:
        raise RunError(f"{path}: {len(train)} training samples are not two full batches of {args.batch_size}")
    seed_everything(args.seed)  # for dropout
    loader = make_loader(train, args.batch_size, own.workers, args.seed, epoch, shuffle=True)
    full = itertools.islice((batch for batch in loader if len(batch) == args.batch_size), batches)
    found = gradients(model, (batch.to(torch.device(own.device)) for batch in full))
    opened = tuple(name for name in model.modalities if method.window.is_open(name))
    return Measured({name: cosines(of) for name, of in found.items()}, opened, epoch + 1)


def gradients(model: MultimodalModel, batches: Iterable[Batch]) -> dict[str, list[Tensor]]:
    """{modality: the gradient of L_joint over its encoder's parameters, flat, for each batch}."""
    parameters = {name: list(encoder.parameters()) for name, encoder in model.encoders.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    model.train()
    for batch in batches:
        loss = F.cross_entropy(model.fuse(model.encode(batch.inputs)), batch.target)
        grads = iter(torch.autograd.grad(loss, sum(parameters.values(), []), materialize_grads=True))
        for name, of in parameters.items():
            found[name].append(torch.cat([next(grads).flatten() for _ in of]))
    return found


def cosines(found: Sequence[Tensor]) -> np.ndarray:
    """(N, N) cosine similarities of N vectors; NaN for one of zeros."""
    products = sum(
        part @ part.T
        for start in range(0, len(found[0]), CHUNK)
        for part in [torch.stack([vector[start : start + CHUNK] for vector in found]).double()]
    )
    norms = products.diagonal().sqrt()
    return (products / norms.outer(norms)).cpu().numpy()


def pairs(matrix: np.ndarray) -> np.ndarray:
    """The cosines of two different batches, each pair once."""
    return matrix[np.triu_indices(len(matrix), k=1)]


def summary(found: np.ndarray) -> str:
    return f"{found.mean():+.3f} ± {found.std():.3f}"


if __name__ == "__main__":
    with one_sentence():
        main()
