"""Do two classifiers differ on the same images? McNemar's test of decisions, DeLong's of AUROCs.

McNemar (1947), exact: of the n images that only one of them gets right, A gets a. If they are
equally good, a ~ Binomial(n, 1/2), and

    p = min(1, 2 P(X <= min(a, n - a)))

DeLong, DeLong and Clarke-Pearson (1988): with psi(s, s') = 1[s > s'] + 1[s = s'] / 2, each positive
image i has the component V10[i] = mean_j psi(s_i, s_j) over the others j, each other image j has
V01[j] = mean_i psi(s_i, s_j), and over the two classifiers r, r'

    Cov(AUROC_r, AUROC_r') = cov_i(V10_r, V10_r') / m + cov_j(V01_r, V01_r') / n

Both take images as independent. Where patients have several, the bootstrap by patient is the one to
trust.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class McNemar:
    """Images that one classifier alone gets right, and the test that it is the better one."""

    only_a: int
    only_b: int
    p_value: float
    """Two-sided; 1 if they never differ."""


@dataclass(frozen=True)
class DeLong:
    """Two AUROCs on the same images, their difference and its test."""

    auroc_a: float
    auroc_b: float
    difference: float
    """A minus B."""
    standard_error: float
    """Of the difference."""
    p_value: float
    """Two-sided; nan where the standard error is 0."""


def mcnemar(correct_a: Bool[np.ndarray, "n"], correct_b: Bool[np.ndarray, "n"]) -> McNemar:
    """Return the exact test that A and B are right on different images equally often."""
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n = only_a + only_b
    # Whole numbers of any size: exact where floating point would overflow.
    ways = tail = 1
    for k in range(min(only_a, only_b)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def delong(
    is_positive: Bool[np.ndarray, "n"],
    score_a: Float[np.ndarray, "n"],
    score_b: Float[np.ndarray, "n"],
) -> DeLong:
    """Return the test that two scores rank the same images equally well.

    Args:
        is_positive: Which images are of the class that is ranked.
        score_a: Larger = more like that class, any unit; ties count one half.
        score_b: Likewise.

    Raises:
        ValueError: with fewer than two images on a side, since their variance is not defined.
    """
    m, n = int(is_positive.sum()), int((~is_positive).sum())
    if min(m, n) < 2:
        raise ValueError(f"DeLong's test needs two images on each side; it has {m} and {n}")
    parts = [_components(is_positive, np.asarray(score, float)) for score in (score_a, score_b)]
    v10, v01 = (np.stack(side) for side in zip(*parts, strict=True))
    covariance = np.cov(v10) / m + np.cov(v01) / n
    auroc_a, auroc_b = v10.mean(axis=1).tolist()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = math.sqrt(max(0.0, float(variance)))
    difference = auroc_a - auroc_b
    p_value = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else math.nan
    return DeLong(auroc_a, auroc_b, difference, error, p_value)


def _components(
    is_positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "rest"]]:
    """Return V10 of the positive images and V01 of the others, by ranks in n log n."""
    pos, neg = score[is_positive], score[~is_positive]
    v10 = (_midranks(score)[is_positive] - _midranks(pos)) / len(neg)
    v01 = 1 - (_midranks(score)[~is_positive] - _midranks(neg)) / len(pos)
    return v10, v01


def _midranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return ranks from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: np.ndarray = (last - (counts - 1) / 2)[place]
    return ranks
