"""Metrics of classes and of calibration against slow computations by their definitions."""

from fractions import Fraction

import numpy as np
import pytest

from utils.metrics import average_precisions, calibration_error, class_accuracies, confusion


def draw(count=400, classes=5, seed=0, absent=()):
    """target (N,), probabilities (N, C) that know something of it, and their largest."""
    draws = np.random.default_rng(seed)
    target = draws.choice([k for k in range(classes) if k not in absent], count)
    logits = draws.standard_normal((count, classes)) + 1.5 * np.eye(classes)[target]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return target, shares.astype(np.float32), shares.argmax(axis=1)


def test_the_confusion_matrix_counts_pairs():
    target, _, predicted = draw(absent=(3,))
    wanted = [
        [sum(1 for t, p in zip(target, predicted, strict=True) if (t, p) == (i, j)) for j in range(5)] for i in range(5)
    ]
    found = confusion(target, predicted, 5)
    assert found.tolist() == wanted and found.sum() == 400 and not found[3].any()


def test_a_classs_accuracy_is_the_share_of_its_samples():
    target, _, predicted = draw(absent=(0,))
    found = class_accuracies(target, predicted, 5)
    assert np.isnan(found[0])
    for k in range(1, 5):
        own = [p == k for t, p in zip(target, predicted, strict=True) if t == k]
        assert found[k] == sum(own) / len(own)


@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_average_precision_is_the_sum_over_thresholds(levels):
    target, shares, _ = draw(120, 3, absent=(1,))
    if levels:
        shares = np.round(shares * levels) / levels
    found = average_precisions(target, shares)
    assert np.isnan(found[1])
    for k in (0, 2):
        wanted, recall = Fraction(0), Fraction(0)
        for threshold in sorted(set(shares[:, k].tolist()), reverse=True):
            taken = [t == k for t, share in zip(target, shares[:, k].tolist(), strict=True) if share >= threshold]
            now = Fraction(sum(map(int, taken)), int((target == k).sum()))
            wanted, recall = wanted + (now - recall) * Fraction(sum(map(int, taken)), len(taken)), now
        assert found[k] == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_calibration_error_is_that_of_the_definition(bins):
    target, shares, predicted = draw(seed=bins)
    shares[:3] = [[0.25, 0.25, 0.25, 0.25, 0.0], [0.5, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0]]  # on edges, and sure
    confidence = shares.max(axis=1).astype(float)
    wanted = 0.0
    for m in range(1, bins + 1):
        held = [n for n in range(400) if (m - 1) / bins < confidence[n] <= m / bins]
        if held:
            right = sum(target[n] == predicted[n] for n in held) / len(held)
            wanted += len(held) / 400 * abs(right - sum(confidence[held]) / len(held))
    assert calibration_error(target, predicted, shares, bins) == pytest.approx(wanted, rel=1e-12)


def test_a_calibrated_and_a_boastful_prediction():
    target, certain = np.array([0, 0, 0, 1]), np.tile([1.0, 0.0], (4, 1))
    assert calibration_error(target, np.zeros(4), np.tile([0.75, 0.25], (4, 1))) == 0
    assert calibration_error(target, np.zeros(4), certain) == 0.25


def test_what_is_not_finite_is_not_hidden():
    target, shares, predicted = draw()
    shares[7] = np.nan
    assert np.isnan(average_precisions(target, shares)).all()
    assert np.isnan(calibration_error(target, predicted, shares))
