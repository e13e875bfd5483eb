"""Which samples to label next, by what a model says of them that was trained on those labelled so far.

Entropy (Shannon 1948; uncertainty sampling): the samples of whose class the model is least sure.

BADGE (Ash, Zhang, Krishnamurthy, Langford and Agarwal, ICLR 2020): samples that would move the last layer far, and in
different directions. With p the probabilities of a sample, y the class it is given, and z its features side by side,

    g = (p - onehot(y)) (x) z

is the gradient of its cross entropy in the weights of that layer, if y were its label. k-means++ seeds among the g are
chosen, the first of them the longest.

BMMAL (Shen, Huang, Yin, Zhang and Shan, ACM MM 2023): the same with the features of each modality m scaled by

    w_m = 1 - (max_k s_k - s_m),    s_m = |phi_m| / sum_k |phi_k|

where phi_m is what m contributes to the probability of y: its Shapley value over the subsets of modalities, the
features of all others zero. The strongest keeps its part of the gradient, that of a weaker one counts less. Two
modalities are the authors'; for more the formula is ours.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from selection.features import Chosen


class Scored(NamedTuple):
    """What a model says of N samples: probabilities (N, C) of the classes, and by modality the features (N, d) that its
    classifier reads, and the contributions (N,) to the probability of the class that it gives.
    """

    probabilities: np.ndarray
    features: Mapping[str, np.ndarray]
    contributions: Mapping[str, np.ndarray]


def entropy(scored: Scored, labelled: np.ndarray, count: int, seed: int) -> Chosen:
    """The samples of the largest entropy of their probabilities; of equal ones by lot. `entropy` tells their mean."""
    entropies = entr(scored.probabilities).sum(axis=1)
    drawn = np.random.default_rng(seed).permutation(len(entropies))
    order = drawn[np.argsort(-entropies[drawn], kind="stable")]
    positions = order[~np.isin(order, labelled)][:count]
    return Chosen(positions, {"entropy": float(entropies[positions].mean())})


def badge(scored: Scored, labelled: np.ndarray, count: int, seed: int) -> Chosen:
    """k-means++ seeds among the gradients of the samples that have no label."""
    inputs = np.concatenate(list(scored.features.values()), axis=1)
    return Chosen(seeds_of(errors(scored.probabilities), inputs, labelled, count, seed))


def bmmal(scored: Scored, labelled: np.ndarray, count: int, seed: int) -> Chosen:
    """BADGE's choice among gradients that are scaled by modality; `share <modality>` tells the mean s_m of the pool.

    Raises:
        ValueError: if there is one modality only.
    """
    if len(scored.features) < 2:
        raise ValueError(f"bmmal compares modalities, and there is {', '.join(scored.features)} alone")
    share = shares(np.stack(list(scored.contributions.values()), axis=1))
    weights = 1 - (share.max(axis=1, keepdims=True) - share)
    inputs = [weights[:, m, None] * z for m, z in enumerate(scored.features.values())]
    positions = seeds_of(errors(scored.probabilities), np.concatenate(inputs, axis=1), labelled, count, seed)
    told = {f"share {name}": float(mean) for name, mean in zip(scored.features, share.mean(axis=0), strict=True)}
    return Chosen(positions, told)


def shares(contributions: np.ndarray) -> np.ndarray:
    """(N, M) the share of each modality in the sizes of all contributions (N, M); equal ones where all are zero."""
    sizes = np.abs(contributions)
    total = sizes.sum(axis=1, keepdims=True)
    return np.where(total > 0, sizes / np.where(total > 0, total, 1), 1 / sizes.shape[1]).astype(np.float32)


def errors(probabilities: np.ndarray) -> np.ndarray:
    """(N, C) p - onehot(y), y the most probable class."""
    given = probabilities.copy()
    given[np.arange(len(given)), probabilities.argmax(axis=1)] -= 1
    return given


def seeds_of(error: np.ndarray, inputs: np.ndarray, labelled: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count,) k-means++ seeds (Arthur and Vassilvitskii 2007) among g_i = error_i (x) inputs_i, none of them labelled.

    After the longest, each is drawn with a probability in proportion to its squared distance to the nearest seed.
    <g_i, g_j> = <error_i, error_j> <inputs_i, inputs_j>, so that no g, of C times d numbers, is ever made.
    """
    draws = np.random.default_rng(seed)
    squares = ((error**2).sum(axis=1) * (inputs**2).sum(axis=1)).astype(np.float64)
    free = np.ones(len(squares), dtype=bool)
    free[labelled] = False
    chosen = [int(np.where(free, squares, -1.0).argmax())]
    distances = np.full(len(squares), np.inf)  # squared, to the nearest seed
    while len(chosen) < count:
        last = chosen[-1]
        free[last] = False
        products = (error @ error[last]) * (inputs @ inputs[last])
        distances = np.minimum(distances, squares + squares[last] - 2.0 * products)
        weights = np.where(free, np.maximum(distances, 0.0), 0.0)
        if not weights.any():  # whatever is left is the same as a seed
            weights = free.astype(np.float64)
        chosen.append(int(draws.choice(len(weights), p=weights / weights.sum())))
    return np.array(chosen)
