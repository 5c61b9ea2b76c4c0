"""Curves with 95% bands by patient, from the resamples that the intervals of the metrics use too.

A band is read point by point: at each place on the horizontal axis, 95% of the resampled curves lie
inside. It says how sure a point is, not how sure the whole curve is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from diffdx.metrics import precision_recall_curve, roc_curve

Curve = Float[np.ndarray, "points"]
Resamples = Float[np.ndarray, "resamples n"]
Weights = Float[np.ndarray, "n"]

POINTS = 101
"""Places on the horizontal axis at which a band is computed."""
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Band:
    """A curve at evenly spaced places, with its 95% bounds; nan where nothing is defined."""

    x: Curve
    value: Curve
    low: Curve
    high: Curve


def roc_band(
    is_positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], resamples: Resamples
) -> Band:
    """Return the true positive rate against the false positive rate, from 0 to 1.

    Args:
        is_positive: Which images are of the class.
        score: Larger = more like that class, any unit.
        resamples: From `patient_resamples`.
    """
    x = np.linspace(0, 1, POINTS)

    def curve(weights: Weights) -> Curve:
        at: Curve = np.interp(x, *roc_curve(is_positive, score, weights=weights))
        return at

    return _band(x, curve, resamples)


def precision_recall_band(
    is_positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], resamples: Resamples
) -> Band:
    """Return the precision at the highest threshold that reaches each recall, from 0.01 to 1.

    Args:
        is_positive: Which images are of the class.
        score: Larger = more like that class, any unit.
        resamples: From `patient_resamples`.
    """
    x = np.linspace(0, 1, POINTS)[1:]

    def curve(weights: Weights) -> Curve:
        recall, precision = precision_recall_curve(is_positive, score, weights=weights)
        # A share of 1 - 1e-12 is the rounding of a sum.
        reached = np.searchsorted(recall, x - 1e-12)
        at: Curve = precision[np.minimum(reached, len(recall) - 1)]
        return np.where(np.isnan(recall[-1]), np.nan, at)

    return _band(x, curve, resamples)


def selective_band(
    correct: Bool[np.ndarray, "n"], uncertainty: Float[np.ndarray, "n"], resamples: Resamples
) -> Band:
    """Return the accuracy of the surest images against the share of images answered, up to 1.

    The curve of `selective_accuracy`, read from the other side: images of equal uncertainty count
    with the accuracy of their group. It begins at ten images, fewer make no accuracy.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain, any unit.
        resamples: From `patient_resamples`.
    """
    _, group = np.unique(uncertainty, return_inverse=True)
    least = min(1.0, 10 / len(correct))
    x = np.linspace(least, 1, POINTS)

    def curve(weights: Weights) -> Curve:
        kept = np.append(0, np.bincount(group, weights=weights).cumsum())
        right = np.append(0, np.bincount(group, weights=weights * correct).cumsum())
        accuracy: Curve = np.interp(x * kept[-1], kept, right) / (x * kept[-1])
        return accuracy

    return _band(x, curve, resamples)


def _band(x: Curve, curve: Callable[[Weights], Curve], resamples: Resamples) -> Band:
    drawn = np.stack([curve(weights) for weights in resamples])
    # A resample without one of the sides has no curve.
    drawn = drawn[~np.isnan(drawn).all(axis=1)]
    value = curve(np.ones(resamples.shape[1]))
    if not len(drawn):
        return Band(x, value, np.full_like(x, np.nan), np.full_like(x, np.nan))
    low, high = np.quantile(drawn, _TAILS, axis=0)
    return Band(x, value, low, high)
