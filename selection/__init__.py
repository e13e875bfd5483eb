"""Which samples of a pool without labels to label first: strategies by name, pure functions of feature arrays.

A strategy takes features {modality: (N, d) unit vectors}, a budget B and a seed. It gives the positions of B different
samples in the order in which it has chosen them, and knows no labels.
"""

from collections.abc import Callable, Mapping

import numpy as np

from selection.centroids import activeft, mmcsal
from selection.clusters import kmeans, typiclust
from selection.cover import coreset
from selection.features import Chosen, check

Features = Mapping[str, np.ndarray]


def random(features: Features, budget: int, seed: int) -> Chosen:
    """Samples by lot."""
    pool = len(next(iter(features.values())))
    return Chosen(np.random.default_rng(seed).permutation(pool)[:budget])


STRATEGIES: dict[str, Callable[..., Chosen]] = {
    "random": random,
    "kmeans": kmeans,
    "coreset": coreset,
    "activeft": activeft,
    "typiclust": typiclust,
    "mmcsal": mmcsal,
}


def select(strategy: str, features: Features, budget: int, seed: int = 0, **options) -> Chosen:
    """`budget` samples of the pool by one of STRATEGIES; `options` are the strategy's own.

    Raises:
        ValueError: for arrays of different lengths, values that are not finite, and a budget that the pool has not.
    """
    return STRATEGIES[strategy](check(features, budget), budget, seed, **options)
