"""The lead at which a vote may stop: optimal boundaries for draws without replacement.

Two classes, a bank of N trials of which M vote for A. The order of the bank is uniformly random, so
the votes are draws without replacement, and after n trials with s votes for A the lead is
2s - n. A boundary b declares A at the first n with lead >= b[n] (B by symmetry, -lead >= b[n]).

**What is guaranteed.** Declaring A is an error only if the bank says B. Couple two banks of the
same order, one with fewer votes for A: its walk lies below the other's at every n. So the bank most
easily mistaken for A is the one vote short of it, M* = N // 2 (for even N a tie, which either class
may lose), and

    P(declare A | any bank of B) <= P(walk of M* ever reaches b)  <= delta.

The right side is computed exactly: fair-coin weights of all paths that meet b for the first time,
times the likelihood ratio of M* against the coin, which depends on the meeting point alone:

    2^n C(N - n, M* - s) / C(N, M*).

**What is minimised.** The expected number of trials when the bank's vote share has a Beta(a, a)
prior, at a price `lambda` for each error at M*: backward induction over (n, s),

    V(n, s) = min( lambda * ratio(n, s),  1 + p V(n+1, s+1) + (1-p) V(n+1, s) ),   V(N, .) = 0
    p = (s + a) / (n + 2a),   ratio = [C(N-n, M*-s) / C(N, M*)] / [Beta(s+a, n-s+a) / Beta(a, a)],

and `lambda` is raised until the exact error is at most delta. Where the remaining trials cannot
change the decision the ratio is 0: exact curtailment comes out by itself.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaln, gammaln

from diffdx.errors import ConfigError

Boundary = Int[np.ndarray, "N"]

PRIOR = 0.2
"""a of the prior: shares of most images lie near 0 or 1 (chosen on the calibration images)."""

# Sums of a few hundred float64 terms are off by 1e-11 at most; the bound must hold nevertheless.
_SAFETY = 1e-9
_BISECTIONS = 24
# exp of it is a float64 still.
_LARGEST_LOG = 690.0


@lru_cache(maxsize=64)
def lead_boundary(
    num_trials: int, delta: float, *, any_size: bool = False, prior: float = PRIOR
) -> Boundary:
    """Return b: entry n-1 is the smallest lead that stops after n trials, num_trials + 1 if none.

    Its exact error at the least favourable bank is at most delta (module docstring).

    Args:
        num_trials: N, trials of the full run.
        delta: Largest probability of an error, in (0, 1).
        any_size: Hold the error for every bank of 1 to N trials, not only of N: among many classes
            the number of trials that concern a pair is not known beforehand.
        prior: a > 0 of the Beta(a, a) prior; concerns the cost, never the error.

    Raises:
        ConfigError: if delta is not in (0, 1): there is no such guarantee.
    """
    require_delta(delta)
    sizes = range(1, num_trials + 1) if any_size else [num_trials]
    ratio = _likelihood_ratio(num_trials, prior)
    # At price 1 errors cost next to nothing; at the upper end only curtailment is left to stop.
    low, high = 0.0, min(float(np.log(1e6 * num_trials) - np.log(delta)), _LARGEST_LOG)
    best = _cheapest_boundary(num_trials, high, prior, ratio)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        boundary = _cheapest_boundary(num_trials, middle, prior, ratio)
        if crossing_probability(boundary, sizes).max() <= delta * (1 - _SAFETY):
            best, high = boundary, middle
        else:
            low = middle
    best.setflags(write=False)
    return best


def first_stop(boundary: Boundary) -> int:
    """Return after how many trials a unanimous vote stops, the earliest time there is."""
    return int((boundary <= np.arange(1, len(boundary) + 1)).argmax()) + 1


def require_delta(delta: float) -> None:
    """Check that delta is a probability of error that a rule can keep.

    Raises:
        ConfigError: if it is not strictly between 0 and 1 (NaN included).
    """
    if not 0 < delta < 1:
        raise ConfigError(
            f"--stop {delta:g}: the probability of another decision lies strictly between 0 and 1; "
            "use for instance 0.01, or `exact` for none at all"
        )


def crossing_probability(boundary: Boundary, sizes: Sequence[int]) -> Float[np.ndarray, "S"]:
    """Return for banks of each size the exact probability that the walk ever reaches the boundary.

    The bank is the least favourable one, with size // 2 votes for the class that leads. Reaching
    the other class's boundary first is not counted in favour, so that split ties need no second
    proof.

    Args:
        boundary: Leads as `lead_boundary` returns them.
        sizes: Trials in the bank, each 1 to len(boundary).
    """
    n, s, log_weight = _first_crossings(boundary)
    size = np.asarray(sizes)[:, None]
    log_bank = log_choose(np.maximum(size - n, 0), size // 2 - s) - log_choose(size, size // 2)
    log_path = np.where(n <= size, log_weight + n * np.log(2) + log_bank, -np.inf)
    probability: Float[np.ndarray, S] = np.exp(log_path).sum(axis=1)
    return probability


def _first_crossings(
    boundary: Boundary,
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Return (n, s, log probability under a fair coin) of every point of first crossing."""
    alive = np.ones(1)
    times, votes, weights = [], [], []
    for n, lead in enumerate(boundary.tolist(), start=1):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        first = max((n + lead + 1) // 2, 0)
        crossed = np.flatnonzero(alive[first:]) + first
        times.append(np.full(len(crossed), n))
        votes.append(crossed)
        weights.append(np.log(alive[crossed]))
        alive[first:] = 0.0
    return np.concatenate(times), np.concatenate(votes), np.concatenate(weights)


def _likelihood_ratio(num_trials: int, prior: float) -> Float[np.ndarray, "N1 N1"]:
    """Return [n, s]: probability of a path under the least favourable bank over the prior's."""
    n, s = np.ogrid[: num_trials + 1, : num_trials + 1]
    short = num_trials // 2
    log_bank = log_choose(num_trials - n, short - s) - log_choose(num_trials, short)
    log_prior = betaln(s + prior, np.maximum(n - s, 0) + prior) - betaln(prior, prior)
    ratio: Float[np.ndarray, "N1 N1"] = np.exp(log_bank - log_prior)
    return ratio


def _cheapest_boundary(
    num_trials: int, log_price: float, prior: float, ratio: Float[np.ndarray, "N1 N1"]
) -> Boundary:
    """Return the boundary of least expected trials + price * errors: backward induction."""
    boundary = np.full(num_trials, num_trials + 1)
    boundary[-1] = 1
    value = np.zeros(num_trials + 1)
    price = np.exp(log_price)
    for n in range(num_trials - 1, 0, -1):
        p = (np.arange(n + 1) + prior) / (n + 2 * prior)
        go_on = 1 + p * value[1 : n + 2] + (1 - p) * value[: n + 1]
        stop = price * ratio[n, : n + 1]
        waiting = np.flatnonzero(stop > go_on)
        first = max(n // 2, waiting[-1] if len(waiting) else 0) + 1
        if first <= n:
            boundary[n - 1] = 2 * first - n
        value = np.minimum(go_on, np.minimum(stop, stop[::-1]))
    return boundary


def log_choose(
    n: Int[np.ndarray, "..."] | int, k: Int[np.ndarray, "..."] | int
) -> Float[np.ndarray, "..."] | np.float64:
    """Return log C(n, k) for n >= 0, -inf where k < 0 or k > n."""
    log: Float[np.ndarray, ...] | np.float64 = (
        gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
    )
    return log
