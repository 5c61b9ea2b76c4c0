"""Metrics of ranking: does a score put the images of a class above the others, at any threshold?

    AUROC = P(s+ > s-) + P(s+ = s-) / 2        for a random image of the class and a random other
    image

(the Mann-Whitney statistic). It is computed from the sorted distinct scores, so ties count one half
however they are ordered; vote shares tie often.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def auroc(
    y: Int[np.ndarray, "n"],
    scores: Float[np.ndarray, "n K"],
    *,
    positive: int | None = None,
    weights: Float[np.ndarray, "n"] | None = None,
) -> float:
    """Return the area under the receiver operating characteristic.

    Args:
        y: True classes in 0 .. K - 1.
        scores: Score of each class; larger = more like that class, any unit. Infinite values rank
            as usual.
        positive: The class set against all others by its own column; None takes the unweighted mean
            of that over the K classes (macro, one against the rest).
        weights: How often each image counts, >= 0; once each by default.

    Returns:
        A value in [0, 1]; nan if a class that enters has no image, or no other has: there is no
        pair to rank.

    Raises:
        ValueError: if a score is nan, since it has no rank.
    """
    if np.isnan(scores).any():
        raise ValueError(
            "scores hold nan, which has no rank; leave out the images that were not classified"
        )
    members = range(scores.shape[1]) if positive is None else [positive]
    return float(np.mean([_area(y == k, scores[:, k], weights) for k in members]))


def roc_curve(
    is_positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    *,
    weights: Float[np.ndarray, "n"] | None = None,
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Return false and true positive rates: from no image called positive to all of them.

    One point for each distinct score as the threshold, after (0, 0). Straight lines between the
    points enclose exactly the area that `auroc` returns. Rates are nan where a side is empty.

    Args:
        is_positive: Which images are of the class.
        score: Larger = more like that class, any unit.
        weights: How often each image counts, >= 0; once each by default.
    """
    pos, neg = _counts_by_score(is_positive, score, weights)
    with np.errstate(invalid="ignore"):
        tpr = np.append(0.0, pos[::-1].cumsum() / pos.sum())
        fpr = np.append(0.0, neg[::-1].cumsum() / neg.sum())
    return fpr, tpr


def precision_recall_curve(
    is_positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    *,
    weights: Float[np.ndarray, "n"] | None = None,
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Return recall and precision, one point for each distinct score as the threshold, descending.

        recall     positives at or above it / all positives
        precision  positives at or above it / images at or above it

    Recall ascends to 1. Nothing lies between two points: precision is no straight line there. Both
    are nan where 0 / 0.

    Args:
        is_positive: Which images are of the class.
        score: Larger = more like that class, any unit.
        weights: How often each image counts, >= 0; once each by default.
    """
    pos, neg = (side[::-1].cumsum() for side in _counts_by_score(is_positive, score, weights))
    with np.errstate(invalid="ignore"):
        return pos / pos[-1:], pos / (pos + neg)


def _area(
    is_positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None,
) -> float:
    pos, neg = _counts_by_score(is_positive, score, weights)
    pairs = pos.sum() * neg.sum()
    if pairs == 0:
        return float("nan")
    return float(pos @ (neg.cumsum() - neg / 2) / pairs)


def _counts_by_score(
    is_positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None,
) -> tuple[Float[np.ndarray, "distinct"], Float[np.ndarray, "distinct"]]:
    """Weight of the positives and of the others at each distinct score, ascending."""
    distinct, rank = np.unique(score, return_inverse=True)
    if weights is None:
        weights = np.ones(len(score))
    pos = np.bincount(rank, weights=weights * is_positive, minlength=len(distinct))
    neg = np.bincount(rank, weights=weights * ~is_positive, minlength=len(distinct))
    return pos.astype(np.float64), neg.astype(np.float64)  # bincount of nothing is integer
