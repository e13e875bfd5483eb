"""What the strategies share: the features of a pool as one array, what is chosen, and the nearest sample not yet taken.

No array grows with the pool's size times the budget: such products are made in blocks of at most BLOCK numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

BLOCK = 2**24  # numbers of a product at a time: 64 MiB in float32


class Chosen(NamedTuple):
    """Positions (B,) in the pool, in the order in which they were chosen, and what the strategy tells of its work."""

    positions: np.ndarray
    facts: dict[str, float] = {}


def check(features: Mapping[str, np.ndarray], budget: int, labelled: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """The features as float32 arrays whose rows have length 1; a row of zeros stays one.

    Raises:
        ValueError: as `check_pool`.
    """
    arrays = {name: np.asarray(array, dtype=np.float32) for name, array in features.items()}
    check_pool(arrays, budget, labelled)
    return {name: directions(array) for name, array in arrays.items()}


def check_pool(features: Mapping[str, np.ndarray], budget: int, labelled: Sequence[int] = ()) -> None:
    """Raises ValueError if features are of different lengths or not finite, or the pool does not have so many samples
    beside those that are labelled.
    """
    if len({len(array) for array in features.values()}) != 1:
        raise ValueError(f"features of {', '.join(f'{len(a)} samples of {name}' for name, a in features.items())}")
    if broken := [name for name, array in features.items() if not np.isfinite(array).all()]:
        raise ValueError(f"features of {broken[0]} are not finite")
    pool, known = len(next(iter(features.values()))), len(labelled)
    if not 0 < budget <= pool - known:
        more, besides = (" more", f", {known} of which are labelled") if known else ("", "")
        raise ValueError(
            f"a budget of {budget}{more} samples of a pool of {pool}{besides}: {pool - known} can be chosen"
        )


def directions(array: np.ndarray) -> np.ndarray:
    """(..., d) with length 1; zeros stay zeros."""
    return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def joined(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, sum of d): the unit features side by side, by 1 / sqrt(M), so that products are means of M cosines."""
    return np.concatenate(list(features.values()), axis=1) / np.float32(np.sqrt(len(features)))


def blocks(count: int, width: int) -> Iterator[slice]:
    """Parts of `count` rows whose product with `width` others is no larger than BLOCK."""
    rows = max(1, BLOCK // width)
    return (slice(start, start + rows) for start in range(0, count, rows))


def nearest_untaken(pool: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(B,) for each row of `wanted` (B, d) in turn the row of `pool` (N, d) with the largest product, not yet taken."""
    taken = np.zeros(len(pool), dtype=bool)
    chosen = []
    for part in blocks(len(wanted), len(pool)):
        for products in wanted[part] @ pool.T:
            chosen.append(np.where(taken, -np.inf, products).argmax())
            taken[chosen[-1]] = True
    return np.array(chosen)


def alignment(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) how well a sample's modalities agree: the mean cosine over all pairs of modalities.

    Raises:
        ValueError: if their features are of different widths.
    """
    check_widths(features)
    pairs = list(combinations(features.values(), 2))
    return sum((a * b).sum(axis=1) for a, b in pairs) / len(pairs)


def gap(features: Mapping[str, np.ndarray]) -> float:
    """The modality gap: the mean over all pairs of modalities of the distance between the means of their features.

    Raises:
        ValueError: if their features are of different widths.
    """
    check_widths(features)
    centres = [array.mean(axis=0, dtype=np.float64) for array in features.values()]
    return float(np.mean([np.linalg.norm(a - b) for a, b in combinations(centres, 2)]))


def check_widths(features: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if the modalities' features cannot be compared, or there is one modality only."""
    if len(features) < 2 or len({array.shape[1] for array in features.values()}) > 1:
        widths = ", ".join(f"{name} {array.shape[1]}" for name, array in features.items())
        raise ValueError(f"modalities are compared by features of one width, not {widths}")
