"""Subsets by optimised centroids: the objective sample by sample, and what its terms do."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selection import centroids, features, select
from selection.centroids import TEMPERATURE, objective, optimise


def stacked(count, modalities, width=5, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, modalities, width, generator=draws, dtype=torch.float64), dim=2)


def similarity(z, theta):
    """s(i, j) by its definition: every modality with every one."""
    return sum(a @ b for a in z for b in theta) / len(z) ** 2


def literal(z, theta):
    """L_dist + L_div of samples z (N, M, d), one pair at a time."""
    count, budget = len(z), len(theta)
    pull = -sum(max(similarity(z_i, t) for t in theta) for z_i in z) / (count * TEMPERATURE)
    push = 0
    for j in range(budget):
        others = [torch.exp(similarity(theta[j], theta[k]) / TEMPERATURE) for k in range(budget) if k != j]
        push = push + torch.log(sum(others)) / budget
    return pull + push


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_objective_and_its_gradient_are_those_of_single_samples(monkeypatch, modalities):
    monkeypatch.setattr(features, "BLOCK", 12)  # several blocks
    z, found = stacked(14, modalities), stacked(4, modalities, seed=1).requires_grad_()
    expected = found.detach().clone().requires_grad_()
    loss, slow = objective(z.mean(dim=1), found), literal(z, expected)
    torch.testing.assert_close(loss, slow)
    loss.backward()
    slow.backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_single_centroid_has_no_others():
    z = stacked(6, 2)
    expected = -sum(similarity(z_i, z[0]) for z_i in z) / (6 * TEMPERATURE)
    torch.testing.assert_close(objective(z.mean(dim=1), z[:1]), expected)
    assert len(select("mmcsal", {"a": z[:, 0].numpy(), "b": z[:, 1].numpy()}, 1).positions) == 1


def clustered_pairs(count=400, share=0.3, seed=0):
    """Pairs of 8 clusters, the last `share` of which have a partner from another cluster."""
    draws = np.random.default_rng(seed)
    middles = features.directions(draws.normal(size=(8, 16)))
    audio = draws.integers(8, size=count)
    visual = np.where(np.arange(count) < (1 - share) * count, audio, (audio + draws.integers(1, 8, size=count)) % 8)
    noise = 0.15 * draws.normal(size=(2, count, 16))
    pool = {"audio": middles[audio] + noise[0], "visual": middles[visual] + noise[1]}
    return {name: array.astype(np.float32) for name, array in pool.items()}, audio != visual


def test_mismatched_pairs_fall_with_the_alignment_term(monkeypatch):
    monkeypatch.setattr(centroids, "STEPS", 100)
    shares = []
    for align in (0.0, 1.0, 20.0):
        found = (clustered_pairs(seed=seed) for seed in range(2))
        chosen = [wrong[select("mmcsal", pool, 60, 0, align=align).positions].mean() for pool, wrong in found]
        shares.append(np.mean(chosen))
    assert shares[0] > 2 * shares[1] > 0 and shares[2] == 0


@pytest.mark.parametrize("align", [0.0, 2.0])
def test_a_centroid_takes_what_is_near_and_aligned(monkeypatch, align):
    """By similarities and cosines of single samples."""
    monkeypatch.setattr(centroids, "STEPS", 5)
    z = stacked(20, 3).float().numpy()
    theta = optimise(z, 6, 0).centroids
    expected = []
    for t in theta:
        scores = [
            similarity(z_i, t) / TEMPERATURE + align * np.mean([a @ b for a, b in combinations(z_i, 2)]) for z_i in z
        ]
        expected.append(max((i for i in range(20) if i not in expected), key=scores.__getitem__))
    pool = {name: z[:, k] for k, name in enumerate(("audio", "visual", "text"))}
    assert select("mmcsal", pool, 6, 0, align=align).positions.tolist() == expected


def test_the_loss_falls_and_the_centroids_move():
    pool, _ = clustered_pairs()
    made = optimise(np.stack(list(features.check(pool, 1).values()), axis=1), 20, 0)
    averages = np.array(made.losses).reshape(10, -1).mean(axis=1)
    assert len(made.losses) == centroids.STEPS
    assert (np.diff(averages) < 0.02).all() and averages[-1] < averages[0] - 0.5
    np.testing.assert_allclose(np.linalg.norm(made.centroids, axis=2), 1, rtol=1e-5)
    found = select("mmcsal", pool, 20, 0)
    assert found.facts["loss"] == made.losses[-1] < found.facts["first_loss"]
    assert found.facts["moved"] == np.mean(found.positions != made.start) > 0.3


def test_the_subset_resembles_the_pool_more_than_one_by_lot():
    """ActiveFT's first term: how near a sample is to the chosen one that is nearest to it."""
    pool, _ = clustered_pairs(200)
    joined = features.joined(features.check(pool, 1))

    def near(strategy, seed):
        return (joined @ joined[select(strategy, pool, 12, seed).positions].T).max(axis=1).mean()

    for strategy in ("activeft", "mmcsal"):
        assert near(strategy, 0) > max(near("random", seed) for seed in range(5))


def test_activeft_compares_no_modality_with_another():
    """Numbers of one in another order, some with another sign, change nothing for it, and much for MMCSAL."""
    pool, _ = clustered_pairs(200)
    draws = np.random.default_rng(1)
    other = pool["visual"][:, draws.permutation(16)] * draws.choice([-1, 1], size=16).astype(np.float32)
    for strategy, low, high in (("activeft", 0.9, 1), ("mmcsal", 0, 0.7)):
        before, after = (select(strategy, pool | {"visual": x}, 20).positions for x in (pool["visual"], other))
        assert low <= np.isin(before, after).mean() <= high
