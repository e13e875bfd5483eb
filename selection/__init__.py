"""Which samples of a pool without labels to label first, or next: strategies by name, pure functions of arrays.

A strategy of STRATEGIES takes features {modality: (N, d) unit vectors}, a budget B and a seed. Those of ADDING also add
to samples that are labelled, as do all of WARM, which go by what a model says that was trained on these. Each gives the
positions of B different samples in the order in which it has chosen them, and knows no labels.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from selection.centroids import activeft, mmcsal
from selection.clusters import kmeans, typiclust
from selection.cover import coreset
from selection.features import Chosen, check, check_pool
from selection.warm import Scored, badge, bmmal, entropy

Features = Mapping[str, np.ndarray]


def random(features: Features, budget: int, seed: int, labelled: Sequence[int] = ()) -> Chosen:
    """Samples by lot."""
    pool = len(next(iter(features.values())))
    drawn = np.random.default_rng(seed).permutation(pool)
    return Chosen(drawn[~np.isin(drawn, labelled)][:budget])


STRATEGIES: dict[str, Callable[..., Chosen]] = {
    "random": random,
    "kmeans": kmeans,
    "coreset": coreset,
    "activeft": activeft,
    "typiclust": typiclust,
    "mmcsal": mmcsal,
}
ADDING = ("random", "coreset")
WARM: dict[str, Callable[[Scored, np.ndarray, int, int], Chosen]] = {
    "entropy": entropy,
    "badge": badge,
    "bmmal": bmmal,
}


def select(strategy: str, features: Features, budget: int, seed: int = 0, **options) -> Chosen:
    """`budget` samples of the pool by one of STRATEGIES; `options` are the strategy's own.

    Raises:
        ValueError: for arrays of different lengths, values that are not finite, and a budget that the pool has not.
    """
    return STRATEGIES[strategy](check(features, budget, options.get("labelled", ())), budget, seed, **options)


def select_next(strategy: str, scored: Scored, labelled: Sequence[int], budget: int, seed: int = 0) -> Chosen:
    """`budget` samples of the pool, beside those at the positions `labelled`, by one of WARM.

    Raises:
        ValueError: as `select`.
    """
    check_pool(scored.features, budget, labelled)
    if not np.isfinite(scored.probabilities).all():
        raise ValueError("probabilities are not finite")
    return WARM[strategy](scored, np.asarray(labelled, dtype=np.int64), budget, seed)
