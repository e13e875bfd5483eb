"""Whether the gradients of different batches point the same way: the paper's Figure 4, from a checkpoint.

    python scripts/gradients.py results/GRID/joint/default/seed0/last.pt --batches 20

For each encoder the gradients of L_joint over the first batches of the epoch that would come next, at the checkpoint's
weights, in training mode, in single precision; then the cosine similarity of every pair. Only full batches count, so
that all have the same noise. Prints mean, standard deviation and range over the pairs, and writes
figures/gradients.svg, .pdf, .png and .csv beside the checkpoint. On the device lie as many copies of the encoders'
gradients as there are batches.
"""

import argparse

import numpy as np

from scripts.drawing.gradients import picture
from scripts.drawing.pictures import Runs, save
from scripts.trained.gradients import BATCHES, measure, pairs, summary
from scripts.trained.restore import add_flags
from utils.errors import one_sentence
from utils.numbers import positive
from utils.runs.checkpoint import checkpoint_of


def main(argv: list[str] | None = None) -> dict[str, np.ndarray]:
    """Measure one checkpoint; returns {modality: (N, N) cosines}.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or there are fewer than two full batches.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_of, help="last.pt of a run, or its folder")
    parser.add_argument("--batches", type=positive, default=BATCHES, help=f"at most (default: {BATCHES})")
    add_flags(parser)
    flags = parser.parse_args(argv)
    measured = measure(flags.checkpoint, flags, flags.batches)
    for name, matrix in measured.cosines.items():
        values = pairs(matrix)
        print(f"{name:>8}: {summary(values)}, {values.min():+.3f} to {values.max():+.3f} over {len(values)} pairs")
    folder = flags.checkpoint.resolve().parent
    drawn = picture([Runs("", argparse.Namespace(), [folder])], [[measured]])
    path = save(drawn, folder / "figures" / "gradients", f"Gradients of different batches; {drawn.note}")
    print(f"written: {path}")
    return measured.cosines


if __name__ == "__main__":
    with one_sentence():
        main()
