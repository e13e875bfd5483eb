"""k-centre greedy, the core-set strategy of Sener and Savarese (ICLR 2018): every sample has a chosen one near it."""

from collections.abc import Mapping, Sequence

import numpy as np

from selection.features import Chosen, joined


def coreset(features: Mapping[str, np.ndarray], budget: int, seed: int, labelled: Sequence[int] = ()) -> Chosen:
    """Again and again the sample farthest from all that are chosen or labelled (Gonzalez 1985); one by lot if none is.

    The largest distance of a sample to the nearest chosen one is at most twice the smallest possible, where nothing was
    labelled before. `radius` tells it. Distances are Euclidean, of the joined unit features.
    """
    pool = joined(features)
    squares = (pool**2).sum(axis=1)
    centres = [int(k) for k in labelled] or [int(np.random.default_rng(seed).integers(len(pool)))]
    wanted = len(labelled) + budget
    distances = np.full(len(pool), np.inf, dtype=np.float32)  # squared, to the nearest centre
    for number in range(wanted):
        if number == len(centres):
            centres.append(int(distances.argmax()))
        last = centres[number]
        distances = np.minimum(distances, squares + squares[last] - 2 * (pool @ pool[last]))
        distances[centres] = -np.inf  # nobody is chosen twice, not even among samples that are all the same
    chosen = centres[len(labelled) :]
    return Chosen(np.array(chosen), {"radius": float(np.sqrt(max(distances.max(), 0.0)))})
