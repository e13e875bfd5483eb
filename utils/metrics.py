"""What predictions are worth, from class numbers and probabilities: by class, over classes, and how well calibrated."""

import numpy as np
from numpy.typing import ArrayLike

BINS = 15  # of confidence; Guo, Pleiss, Sun and Weinberger, ICML 2017, Section 3


def confusion(target: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """(C, C) numbers of samples: those of class i (row) that are taken for class j (column)."""
    pairs = np.asarray(target, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_accuracies(target: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """(C,) share of each class's samples that are predicted right; NaN for a class without samples."""
    table = confusion(target, predicted, classes)
    with np.errstate(invalid="ignore"):
        return np.diag(table) / table.sum(axis=1)


def average_precisions(target: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
    """(C,) average precision of each class against all others, by scikit-learn; NaN for a class without samples.

    probabilities: (N, C); where one of them is not finite, all is NaN.
    """
    from sklearn.metrics import average_precision_score  # here, since it takes seconds to load

    target, probabilities = np.asarray(target), np.asarray(probabilities)
    precisions = np.full(probabilities.shape[1], np.nan)
    if np.isfinite(probabilities).all():
        present = np.unique(target)
        against = target[:, None] == present
        precisions[present] = average_precision_score(against, probabilities[:, present], average=None)
    return precisions


def calibration_error(target: ArrayLike, predicted: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """The expected calibration error, sum over bins of |B| / N |accuracy(B) - mean confidence(B)|.

    Guo et al. 2017, Eq. 5: the confidence of a prediction is its probability, and bin m of M holds those in
    ((m - 1) / M, m / M].
    """
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    right = np.asarray(target) == np.asarray(predicted)
    place = np.digitize(confidence, np.arange(1, bins) / bins, right=True)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
