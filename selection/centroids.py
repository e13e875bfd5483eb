"""Subsets by optimised centroids: ActiveFT (Xie et al., CVPR 2023) and the second stage of MMCSAL (Shen et al., ACM MM
Asia 2024), whose details are reconstructed: its text and code were not to be had (docs/METHODS.md).

B centroids, for MMCSAL a unit vector th_j^m of every modality and for ActiveFT one th_j of all joined, begin at samples
drawn by lot and follow by Adam the gradient of L_dist + L_div:

    L_dist = -1/N sum_i max_j s(i, j) / t                   the subset resembles the pool
    L_div  = 1/B sum_j log sum_{k != j} exp(s(j, k) / t)    it is spread out

With z_i^m the unit features of the samples, and z_i those of all modalities joined to one unit vector:

    mmcsal    s(i, j) = 1/M^2 sum_{m, m'} z_i^m . th_j^m'  =  (mean_m z_i^m) . (mean_m th_j^m)
    activeft  s(i, j) = z_i . th_j

Then each centroid in turn takes, of the samples not yet taken, the one with the largest

    s(i, j) / t + lambda a_i,    a_i = mean_{m < m'} z_i^m . z_i^m'

whose second term (MMCSAL) is the alignment of the chosen samples, -lambda L_align. On the centroids themselves that
term does the opposite: it draws the modalities of a centroid to the middle between two clusters, and nothing is nearer
to that than a sample whose modalities do not belong together.

The gradient of L_dist is made from sums of samples by their nearest centroid: it is exact, in blocks of the pool.
ActiveFT's code holds one side of L_div constant and learns by 1e-3, with which centroids hardly leave their beginnings:
here both sides learn, by 1e-2.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selection.features import Chosen, alignment, blocks, joined, nearest_untaken

TEMPERATURE, STEPS, RATE = 0.07, 300, 1e-2  # the first two are ActiveFT's


class Optimised(NamedTuple):
    """Centroids (B, M, d) of unit vectors, the samples (B,) that they began at, and the losses (STEPS,)."""

    centroids: np.ndarray
    start: np.ndarray
    losses: list[float]


def mmcsal(features: Mapping[str, np.ndarray], budget: int, seed: int, align: float = 1.0) -> Chosen:
    """MMCSAL's subset; `align` is lambda. `moved` tells the share of centroids that take another sample than at first.

    Raises:
        ValueError: if the modalities' features are of different widths.
    """
    aligned = alignment(features)
    return chosen_by(np.stack(list(features.values()), axis=1), budget, seed, align * TEMPERATURE * aligned)


def activeft(features: Mapping[str, np.ndarray], budget: int, seed: int) -> Chosen:
    """ActiveFT's subset by the joined unit features: modalities are not compared with one another."""
    return chosen_by(joined(features)[:, None], budget, seed)


def chosen_by(stacked: np.ndarray, budget: int, seed: int, extra: np.ndarray | float = 0.0) -> Chosen:
    """The samples (N, M, d) that optimised centroids take; `extra` (N,) is added to a sample's similarities."""
    made = optimise(stacked, budget, seed)
    samples = np.column_stack([stacked.mean(axis=1), np.broadcast_to(np.float32(extra), len(stacked))])
    wanted = np.column_stack([made.centroids.mean(axis=1), np.ones(budget, dtype=np.float32)])
    positions = nearest_untaken(samples, wanted)
    facts = {"moved": float(np.mean(positions != made.start)), "first_loss": made.losses[0], "loss": made.losses[-1]}
    return Chosen(positions, facts)


def optimise(stacked: np.ndarray, budget: int, seed: int) -> Optimised:
    """Centroids for the samples (N, M, d), whose modalities are unit vectors."""
    start = np.random.default_rng(seed).permutation(len(stacked))[:budget]
    theta = torch.from_numpy(stacked[start]).clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=RATE)
    pool = torch.from_numpy(stacked).mean(dim=1)
    losses = []
    for _ in range(STEPS):
        loss = objective(pool, F.normalize(theta, dim=2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return Optimised(F.normalize(theta.detach(), dim=2).numpy(), start, torch.stack(losses).tolist())


def objective(pool: Tensor, centroids: Tensor) -> Tensor:
    """L_dist + L_div of centroids (B, M, d); `pool` (N, d) holds the samples' means over the modalities."""
    means = centroids.mean(dim=1)  # (B, d)
    loss = -(nearest_sums(pool, means.detach()) * means).sum() / (len(pool) * TEMPERATURE)
    if len(means) == 1:
        return loss
    others = (means @ means.T / TEMPERATURE).masked_fill(torch.eye(len(means), dtype=torch.bool), -torch.inf)
    return loss + others.logsumexp(dim=1).mean()


@torch.no_grad()
def nearest_sums(pool: Tensor, means: Tensor) -> Tensor:
    """(B, d) the sum of the samples to which each of `means` (B, d) is the nearest."""
    sums = torch.zeros_like(means)
    for part in blocks(len(pool), len(means)):
        sums.index_add_(0, (pool[part] @ means.T).argmax(dim=1), pool[part])
    return sums
