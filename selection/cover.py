"""k-centre greedy, the core-set strategy of Sener and Savarese (ICLR 2018): every sample has a chosen one near it."""

from collections.abc import Mapping

import numpy as np

from selection.features import Chosen, joined


def coreset(features: Mapping[str, np.ndarray], budget: int, seed: int) -> Chosen:
    """One sample by lot, then again and again the one farthest from all that are chosen (Gonzalez 1985).

    The largest distance of a sample to the nearest chosen one is at most twice the smallest possible. `radius` tells
    it. Distances are Euclidean, of the joined unit features.
    """
    pool = joined(features)
    squares = (pool**2).sum(axis=1)
    chosen = [int(np.random.default_rng(seed).integers(len(pool)))]
    distances = np.full(len(pool), np.inf, dtype=np.float32)  # squared, to the nearest chosen sample
    while True:
        last = chosen[-1]
        distances = np.minimum(distances, squares + squares[last] - 2 * (pool @ pool[last]))
        distances[chosen] = -np.inf  # nobody is chosen twice, not even among samples that are all the same
        if len(chosen) == budget:
            break
        chosen.append(int(distances.argmax()))
    return Chosen(np.array(chosen), {"radius": float(np.sqrt(max(distances.max(), 0.0)))})
