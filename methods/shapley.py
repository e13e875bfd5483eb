"""Shapley values: what each modality contributes to the worth v of all of them.

phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)),  so that sum_m phi_m = v(all) - v(none)
"""

from itertools import combinations
from math import factorial

import torch
from torch import Tensor


def share_of_orders(size: int, count: int) -> float:
    """|S|! (M - |S| - 1)! / M!: the share of the orders of `count` modalities in which these `size` come before m."""
    return factorial(size) * factorial(count - size - 1) / factorial(count)


def coalitions(count: int) -> list[tuple[int, ...]]:
    """Every coalition of `count` modalities that is not empty, by size: that of all modalities is the last."""
    return [members for size in range(1, count + 1) for members in combinations(range(count), size)]


def shapley_weights(count: int) -> Tensor:
    """(M, coalitions) so that phi_m = sum_S weight[m, S] v(S), where the empty coalition is worth nothing."""
    share = [share_of_orders(size, count) for size in range(count)]
    rows = [
        [share[len(members) - 1] if m in members else -share[len(members)] for members in coalitions(count)]
        for m in range(count)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def shapley_values(worth: Tensor) -> Tensor:
    """(N, M) values from (N, 2^M) worths: column S is the subset whose modalities are the bits of S; 0 is none."""
    count = worth.shape[1].bit_length() - 1
    values = torch.zeros(len(worth), count, dtype=torch.float64)
    for m in range(count):
        for s in (s for s in range(2**count) if not s >> m & 1):
            values[:, m] += share_of_orders(s.bit_count(), count) * (worth[:, s | 1 << m] - worth[:, s])
    return values
