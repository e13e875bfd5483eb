"""Every strategy gives different samples by the seed alone, and what each of them is for."""

import numpy as np
import pytest

from selection import STRATEGIES, centroids, clusters, features, select
from selection.clusters import kmeans, typicality, typiclust
from selection.features import alignment, gap, nearest_untaken

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")


def pool_of(count=60, modalities=TWO, width=4, seed=0):
    draws = np.random.default_rng(seed)
    return {name: draws.normal(size=(count, width)).astype(np.float32) for name in modalities}


def on_a_line(*places):
    """Unit vectors in the plane, whose angles are the places."""
    return np.stack([np.cos(places), np.sin(places)], axis=1)


def spots(sizes, gap=1.2, spread=0.01, seed=0):
    """Clusters of these sizes at angles `gap` apart, the samples of each at distances that grow from its middle."""
    places = np.concatenate([gap * k + spread * np.linspace(-1, 1, n) ** 3 for k, n in enumerate(sizes)])
    return {name: on_a_line(*places) for name in TWO}, np.repeat(np.arange(len(sizes)), sizes)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(centroids, "STEPS", 20)


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_as_many_different_samples_as_wanted_the_same_for_a_seed(strategy, modalities):
    pool = pool_of(modalities=modalities)
    chosen = select(strategy, pool, 12, seed=3).positions
    assert chosen.shape == (12,) and len(set(chosen.tolist())) == 12 and set(chosen) <= set(range(60))
    assert np.array_equal(select(strategy, pool, 12, seed=3).positions, chosen)
    assert any(not np.array_equal(select(strategy, pool, 12, seed=seed).positions, chosen) for seed in (4, 5))
    assert sorted(select(strategy, pool, 60).positions) == list(range(60))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_samples_that_are_all_the_same_none_is_chosen_twice(strategy):
    for value in (0.0, 1.0):
        pool = {name: np.full((20, 3), value) for name in TWO}
        assert len(set(select(strategy, pool, 20).positions.tolist())) == 20


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "random"])
def test_lengths_of_features_do_not_count(strategy):
    """They are compared by their directions."""
    pool = pool_of()
    scaled = {name: array * np.geomspace(0.5, 8, len(array))[:, None] for name, array in pool.items()}
    assert np.array_equal(select(strategy, scaled, 8).positions, select(strategy, pool, 8).positions)


@pytest.mark.parametrize(
    "pool, budget, words",
    [
        (pool_of(), 0, "a budget of 0 samples of a pool of 60"),
        (pool_of(), 61, "a budget of 61 samples of a pool of 60"),
        (pool_of() | {"visual": np.ones((59, 4))}, 5, "60 samples of audio, 59 samples of visual"),
        (pool_of() | {"visual": np.full((60, 4), np.nan)}, 5, "features of visual are not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(pool, budget, words):
    with pytest.raises(ValueError, match=words):
        select("random", pool, budget)


def test_mmcsal_needs_features_of_one_width_and_two_modalities():
    odd = pool_of() | {"visual": np.ones((60, 5))}
    for pool, words in ((odd, "not audio 4, visual 5"), (pool_of(modalities=("audio",)), "not audio 4")):
        with pytest.raises(ValueError, match=words):
            select("mmcsal", pool, 5)
        assert len(select("activeft", pool, 5).positions) == 5


@pytest.mark.parametrize("size", [7, 1000, 2**24])
def test_the_nearest_sample_that_nobody_has_taken(monkeypatch, size):
    monkeypatch.setattr(features, "BLOCK", size)
    pool, wanted = pool_of(30)["audio"], pool_of(30)["visual"]
    taken = []
    for row in wanted:
        ranked = sorted(range(30), key=lambda i, row=row: -float(row @ pool[i]))
        taken.append(next(i for i in ranked if i not in taken))
    assert nearest_untaken(pool, wanted).tolist() == taken


def test_no_product_is_larger_than_a_block():
    for count, width in ((200_000, 1000), (5, 2**25), (3, 2)):
        parts = list(features.blocks(count, width))
        assert [i for part in parts for i in range(*part.indices(count))] == list(range(count))
        rows = max(part.stop - part.start for part in parts)
        assert rows == 1 or rows * width <= features.BLOCK


def test_coreset_on_a_line_picks_the_ends():
    """The farther end follows the first sample, and where that is near the middle, then comes the other end."""
    pool = {name: on_a_line(*np.linspace(0, 1.5, 31)) for name in TWO}
    chosen = [select("coreset", pool, 3, seed).positions.tolist() for seed in range(20)]
    assert all(second == (30 if first < 15 else 0) for first, second, _ in chosen if first != 15)
    central = [others for first, *others in chosen if 11 <= first <= 19]
    assert len(central) > 2 and all(sorted(others) == [0, 30] for others in central)


def test_coreset_is_within_twice_the_best_radius():
    pool, members = spots([30, 5, 2, 1])
    found = select("coreset", pool, 4)
    assert sorted(members[found.positions]) == [0, 1, 2, 3]
    joined = np.concatenate([pool["audio"], pool["visual"]], axis=1) / np.sqrt(2)
    to_chosen = np.linalg.norm(joined[:, None] - joined[found.positions], axis=2)
    expected = np.sort(to_chosen.min(axis=1))[-1]
    assert found.facts["radius"] == pytest.approx(expected, abs=1e-3)


def test_kmeans_takes_the_sample_nearest_to_every_centre():
    """That is the middle one of five that stand evenly."""
    places = np.add.outer([0.0, 1.5, 3.0], 0.1 * np.arange(-2, 3)).ravel()
    assert sorted(select("kmeans", {name: on_a_line(*places) for name in TWO}, 3).positions) == [2, 7, 12]


def test_kmeans_goes_by_distance_where_features_are_zero():
    """A dead encoder's samples have joined features of another length."""
    draws = np.random.default_rng(0)
    pool = {name: on_a_line(*draws.uniform(0, 3, 40)) * (draws.random((40, 1)) < 0.5) for name in TWO}
    checked = features.check(pool, 6)
    joined = features.joined(checked)
    centres, _ = clusters.clustered(joined, 6, 0)
    expected = [np.linalg.norm(joined - centre, axis=1) for centre in centres]
    found = kmeans(checked, 6, 0).positions
    assert [d[i] for d, i in zip(expected, found, strict=True)] == pytest.approx([d.min() for d in expected], abs=1e-3)


def test_a_large_pool_is_clustered_by_parts(monkeypatch):
    pool, members = spots([31, 11, 7])
    monkeypatch.setattr(clusters, "LARGE", 10)
    assert sorted(members[select("kmeans", pool, 3).positions]) == [0, 1, 2]


def test_typicality_is_the_inverse_mean_distance_to_the_nearest():
    points = np.array([[0.0], [1.0], [3.0], [7.0]])  # two neighbours each, half of them
    expected = 1 / (np.array([(1 + 3) / 2, (1 + 2) / 2, (2 + 3) / 2, (4 + 6) / 2]) + 1e-5)
    np.testing.assert_allclose(typicality(points), expected, rtol=1e-6)
    assert typicality(points[:1]).tolist() == [1.0]


def of_four(monkeypatch):
    """Samples in clusters of these sizes, which k-means finds."""
    pool, members = spots([9, 31, 3, 12], spread=0.3)
    monkeypatch.setattr(clusters, "clustered", lambda pool, count, seed: (None, members))
    return features.check(pool, 1), members


def test_typiclust_takes_the_densest_sample_of_the_largest_cluster_first(monkeypatch):
    pool, members = of_four(monkeypatch)
    chosen = select("typiclust", pool, 4).positions
    assert members[chosen].tolist() == [1, 3, 0, 1]  # by size, without the one of fewer than 5 samples
    for k, position in zip((1, 3, 0), chosen[:3], strict=True):
        inside = np.flatnonzero(members == k)
        assert position == inside[typicality(features.joined(pool)[inside]).argmax()]
    assert abs(chosen[0] - (9 + 15)) < 5  # where the samples are densest


def test_typiclust_beyond_its_clusters_goes_round_again(monkeypatch):
    pool, members = of_four(monkeypatch)
    monkeypatch.setattr(clusters, "MOST", 4)
    chosen = typiclust(pool, 50, 0).positions
    assert members[chosen[:6]].tolist() == [1, 3, 0, 1, 3, 0]
    assert np.bincount(members[chosen], minlength=4).tolist() == [9, 29, 0, 12]
    assert np.bincount(members[typiclust(pool, 54, 0).positions]).tolist() == [9, 31, 2, 12]


def test_gap_and_alignment_of_single_samples():
    pool = features.check(pool_of(10, THREE), 1)
    pairs = [("audio", "visual"), ("audio", "text"), ("visual", "text")]
    cosines = [[float(pool[a][i] @ pool[b][i]) for a, b in pairs] for i in range(10)]
    np.testing.assert_allclose(alignment(pool), np.mean(cosines, axis=1), rtol=1e-5)
    distances = [np.linalg.norm(sum(pool[a]) / 10 - sum(pool[b]) / 10) for a, b in pairs]
    assert gap(pool) == pytest.approx(np.mean(distances), rel=1e-5)
