"""How many of the surest answers can be promised to be right often enough?

Sort n answers from the surest on. Giving the first k of them is wrong S_k times. To promise that a
share of at least `level` of such answers is right, at a confidence of 1 - delta, k is accepted if
S_k is as small as it would rarely be at just that share:

    P(Binomial(k, 1 - level) <= S_k) <= gamma        (Clopper and Pearson 1934, for one k)

All k are looked at, which must be paid for: gamma < delta is solved so that, if every answer were
wrong with probability 1 - level, the walk S_1 .. S_n would be accepted anywhere with probability
<= delta. This is computed exactly, by dynamic programming over the walk (learn then test,
Angelopoulos et al. 2021, with the dependence of the tests taken into account). Then all accepted k
may be used at once.

It is exact if the answers are independent and the score points the right way: once the share right
has fallen to `level`, answers still less sure are not right more often than that.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom

_BISECTIONS = 20


def accepted_lengths(
    sure: Float[np.ndarray, "n"], wrong: Bool[np.ndarray, "n"], level: float, delta: float
) -> Int[np.ndarray, "lengths"]:
    """Return every k such that answering the k surest is certified; all at once at 1 - delta.

    Args:
        sure: Larger = surer. Equals are answered together or not at all.
        wrong: Whether the answer would be wrong.
        level: Share of right answers to certify, in (0, 1).
        delta: Probability with which any of them may be accepted although the share is lower.
    """
    order = np.argsort(-sure, kind="stable")
    ranked = sure[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1
    within = np.cumsum(wrong[order]) <= tolerated_errors(len(sure), level, delta)
    accepted: np.ndarray = ends[within[ends - 1]]
    return accepted


@lru_cache(maxsize=32)
def tolerated_errors(n: int, level: float, delta: float) -> Int[np.ndarray, "n"]:
    """Return for k = 1..n the most wrong answers among k with which k is accepted; -1 for none.

    Args:
        n: Length of the walk, >= 1.
        level: Share of right answers to certify, in (0, 1).
        delta: Probability that a walk with errors of probability 1 - level is ever accepted.
    """
    low, high = 0.0, delta
    for _ in range(_BISECTIONS):
        gamma = (low + high) / 2
        if _acceptance(_pointwise(n, level, gamma), level) <= delta:
            low = gamma
        else:
            high = gamma
    tolerated = _pointwise(n, level, low)
    tolerated.flags.writeable = False  # cached: every caller gets the same array
    return tolerated


def _pointwise(n: int, level: float, gamma: float) -> Int[np.ndarray, "n"]:
    """Most errors c with P(Binomial(k, 1 - level) <= c) <= gamma, for k = 1..n."""
    if gamma <= 0:
        return np.full(n, -1)
    k = np.arange(1, n + 1)
    most = binom.ppf(gamma, k, 1 - level).astype(np.int64)
    tolerated: np.ndarray = np.where(binom.cdf(most, k, 1 - level) > gamma, most - 1, most)
    return tolerated


def _acceptance(tolerated: Int[np.ndarray, "n"], level: float) -> float:
    """Probability that a walk with errors of probability 1 - level ever stays within tolerance."""
    chance = np.zeros(max(int(tolerated.max()), 0) + 2)
    chance[0] = 1.0
    accepted = 0.0
    for most in tolerated:
        chance[1:] = chance[1:] * level + chance[:-1] * (1 - level)
        chance[0] *= level
        accepted += chance[: most + 1].sum()
        chance[: most + 1] = 0.0
    return float(accepted)
