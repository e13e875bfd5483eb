"""Strategies by clusters of the joined unit features, with scikit-learn's k-means."""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from selection.features import Chosen, joined, nearest_untaken

LARGE = 10**7  # samples times clusters from which on k-means goes by parts of the pool
ITERATIONS = 100
# TypiClust's public code: no more clusters, none of fewer samples before the larger ones are used up, neighbours.
MOST, SMALL, NEIGHBOURS = 500, 5, 20


def clustered(pool: np.ndarray, count: int, seed: int, starts: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Centres (count, d) and clusters (N,) of `pool` (N, d); the same whatever the number of threads outside.

    Of several `starts` the one counts whose clusters are tightest.
    """
    options = dict(n_clusters=count, n_init=starts, max_iter=ITERATIONS, random_state=seed % 2**32)
    if len(pool) * count > LARGE:
        fitted = MiniBatchKMeans(**options, batch_size=4096, init_size=max(3 * count, 12288))
    else:
        fitted = KMeans(**options)
    with threadpool_limits(1), warnings.catch_warnings():  # sums in several threads differ from one time to the next
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different samples than clusters are no fault
        fitted.fit(pool)
    return fitted.cluster_centers_, fitted.labels_


def kmeans(features: Mapping[str, np.ndarray], budget: int, seed: int) -> Chosen:
    """The sample nearest to each of B centres of k-means, of those that no centre before it has taken."""
    pool = joined(features)
    centres, _ = clustered(pool, budget, seed)
    # Products with these are largest where the distance is smallest.
    pool = np.column_stack([pool, -(pool**2).sum(axis=1) / 2])
    return Chosen(nearest_untaken(pool, np.column_stack([centres, np.ones(budget, dtype=pool.dtype)])))


def typiclust(features: Mapping[str, np.ndarray], budget: int, seed: int) -> Chosen:
    """TypiClust (Hacohen, Dekel and Weinshall, ICML 2022): the most typical sample of each of B clusters.

    A sample's typicality is 1 / its mean distance to its 20 nearest neighbours in its cluster, or to half of the
    cluster where that is smaller. Clusters come in the order of their sizes, and once more where the budget is larger
    than their number, 500 at most; those of fewer than 5 samples wait until the others are used up.
    """
    pool = joined(features)
    count = min(budget, MOST)
    _, cluster = clustered(pool, count, seed)
    left = [np.flatnonzero(cluster == k) for k in range(count)]
    left.sort(key=lambda members: (len(members) < SMALL, -len(members)))
    small = next((k for k, members in enumerate(left) if len(members) < SMALL), count)
    chosen: list[int] = []
    for group in (range(small), range(small, count)):
        while len(chosen) < budget and any(len(left[k]) for k in group):
            for k in [k for k in group if len(left[k])][: budget - len(chosen)]:
                best = typicality(pool[left[k]]).argmax()
                chosen.append(left[k][best])
                left[k] = np.delete(left[k], best)
    return Chosen(np.array(chosen))


def typicality(members: np.ndarray) -> np.ndarray:
    """(n,) of the samples (n, d) of a cluster: the inverse of the mean distance to the nearest others."""
    neighbours = min(NEIGHBOURS, len(members) // 2)
    if neighbours == 0:
        return np.ones(len(members))
    with threadpool_limits(1):
        distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(members).kneighbors()  # without the sample itself
    return 1 / (distances.mean(axis=1) + 1e-5)
