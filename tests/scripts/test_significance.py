"""Intervals and tests beside slow computations that share nothing with them, and on data whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from scripts.results.significance import interval, samples_test, seeds_test


def slow_interval(correct, draws, random):
    """Every sample and every seed drawn one by one."""
    seeds, samples = correct.shape
    means = []
    for _ in range(draws):
        which, who = random.integers(samples, size=samples), random.integers(seeds, size=seeds)
        means.append(np.mean([correct[s, which].mean() for s in who]))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_is_that_of_drawing_samples_and_seeds_one_by_one(seeds):
    random = np.random.default_rng(5)
    hard = random.random(120)
    level = np.linspace(0.0, 0.1, seeds)[:, None]
    correct = random.random((seeds, 120)) < 0.8 - 0.4 * hard + level
    low, high = interval(correct)
    assert low < correct.mean() < high
    assert (low, high) == pytest.approx(tuple(slow_interval(correct, 4000, random)), abs=0.012)
    assert interval(correct) == (low, high)  # seeded
    narrow = interval(correct, level=0.5)
    assert low < narrow[0] < correct.mean() < narrow[1] < high


def test_the_interval_of_sums_of_differences_tells_all_kinds_apart():
    """(-1, 1) and (2, 0) have the same place among kinds that are counted as if no value were larger than 1."""
    low, high = interval(np.array([[-1, 2] * 50, [1, 0] * 50]))
    assert 0.15 < low < 0.5 < high < 0.85


def test_the_interval_of_one_seed_is_the_binomials():
    correct = (np.arange(400) < 300)[None]
    error = math.sqrt(0.75 * 0.25 / 400)
    assert interval(correct) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.004)
    assert interval(np.ones((3, 50), bool)) == (1.0, 1.0)


@pytest.mark.parametrize("seeds, spread, least", [(1, 0.0, 0.92), (3, 0.0, 0.92), (5, 0.02, 0.90)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, spread, least):
    # Samples differ in difficulty, seeds in level; the truth is the accuracy over all samples and seeds, 0.7.
    random = np.random.default_rng(0)
    hits, trials = 0, 400
    for _ in range(trials):
        difficulty = random.beta(1.4, 0.6, size=300)[None]  # mean 0.7
        level = spread * random.standard_normal((seeds, 1))
        correct = random.random((seeds, 300)) < difficulty + level
        low, high = interval(correct, draws=1000)
        hits += low <= 0.7 <= high
    assert least < hits / trials <= 1.0


def slow_t(ours, theirs):
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / len(differences)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1))
    return 2 * t.sf(abs(mean) / (deviation / math.sqrt(len(differences))), len(differences) - 1)


@pytest.mark.parametrize(
    "ours, theirs", [((71.0, 72.5, 70.9), (66.1, 67.0, 69.3)), ((1.0, 2.0), (2.0, 5.0)), ((5.0, 4, 3, 2), (4, 5, 2, 4))]
)
def test_the_t_test_over_seeds_is_the_textbooks(ours, theirs):
    assert seeds_test(ours, theirs) == pytest.approx(slow_t(ours, theirs), rel=1e-10)


def test_a_t_test_needs_two_seeds_and_a_spread():
    assert seeds_test((1.0,), (2.0,)) is None
    assert seeds_test((1.0, 2.0), (1.0, 2.0)) is None
    assert seeds_test((66.7, 66.8, 66.9), (66.6, 66.7, 66.8)) is None  # equal but for rounding


def slow_samples(ours, theirs):
    """Every choice of signs."""
    differences = (ours.astype(int) - theirs.astype(int)).sum(axis=0)
    found = abs(differences.sum())
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    return np.mean([value >= found for value in sums])


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_the_test_over_samples_counts_every_choice_of_signs(seeds, gain):
    random = np.random.default_rng(seeds)
    ours, theirs = random.random((seeds, 13)) < 0.6 + gain, random.random((seeds, 13)) < 0.6
    assert samples_test(ours, theirs) == pytest.approx(slow_samples(ours, theirs), rel=1e-9)
    assert samples_test(ours, theirs) == pytest.approx(samples_test(theirs, ours), rel=1e-12)


def test_the_test_over_samples_of_one_seed_is_mcnemars():
    random = np.random.default_rng(1)
    ours, theirs = random.random((2, 1, 744)) < np.array([0.75, 0.70])[:, None, None]
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert samples_test(ours, theirs) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)
    assert samples_test(ours, ours) == 1.0


def test_the_test_over_samples_is_right_as_often_as_it_says():
    random = np.random.default_rng(2)
    found = []
    for _ in range(800):
        difficulty = random.random(200)
        ours, theirs = random.random((2, 3, 200)) < difficulty
        found.append(samples_test(ours, theirs))
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.07
