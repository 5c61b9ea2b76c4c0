"""Where the full run's vote share lies, said after any number of its trials.

A class wins M of the N trials of the full run; after n of them, in random order, it has won s. For
every M the prior-posterior ratio

    P(the trials so far) / P(the trials so far | M),   P(... | M) = C(N-n, M-s) / C(N, M),
    P(...) = Beta(s+a, n-s+a) / Beta(a, a)      (any prior will do: it concerns the width alone)

is a non-negative martingale of mean 1 under M, so that by Ville's inequality it ever reaches
1/alpha with probability at most alpha. Hence

    { M : ratio < 1/alpha }

holds the true M at **all** n at once with probability 1 - alpha, also at an n that was chosen by
looking (a confidence sequence for sampling without replacement; Waudby-Smith and Ramdas 2020). The
set is an interval since the likelihood has one peak.

Ties: the lower end takes sole wins, the upper end shared wins too. Every way of giving tied trials
to their winners has an interval within, so the share is covered up to the rounding of M to a whole
vote where split ties make it a fraction.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaln

from diffdx._typing import Errors, VoteShare
from diffdx.classification.stopping.boundary import PRIOR, log_choose
from diffdx.classification.stopping.rule import StoppingRule, first_time
from diffdx.classification.stopping.wins import win_counts
from diffdx.classification.voting import Ties, trial_votes
from diffdx.errors import ConfigError

LEVEL = 0.95
"""Probability that the share lies in its interval."""


def share_sequence(
    votes: Int[np.ndarray, "..."],
    trials: Int[np.ndarray, "..."],
    num_trials: int,
    level: float = LEVEL,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return the lowest and highest share of the full run's votes, in [0, 1].

    Args:
        votes: s, trials won, 0 <= votes <= trials; broadcast against `trials`.
        trials: n, trials run, 0 <= trials <= num_trials.
        num_trials: N of the full run.
        level: Probability with which the interval holds at all n at once.

    Raises:
        ConfigError: if level is not in (0, 1).
        ValueError: if a count is impossible.
    """
    votes, trials = np.broadcast_arrays(votes, trials)
    if ((votes < 0) | (votes > trials) | (trials > num_trials)).any():
        raise ValueError("counts must satisfy 0 <= votes <= trials <= num_trials")
    lowest = _lowest_wins(num_trials, level)
    low = lowest[trials, votes] / num_trials
    # The interval of the trials not won, turned around: the prior is symmetric.
    high = (num_trials - lowest[trials, trials - votes]) / num_trials
    return low, high


def share_interval(
    errors: Errors, *, ties: Ties = "split", level: float = LEVEL
) -> tuple[VoteShare, VoteShare]:
    """Return (low, high) of every class's share of the full run's votes, after any stopping rule.

    Each class's interval holds with probability `level`; with two classes both at once.

    Args:
        errors: Mean squared errors; NaN under every class of a trial that was not run.
        ties: How a tied trial's vote is counted.
        level: Probability of each interval.

    Raises:
        ConfigError: if level is not in (0, 1).
    """
    shares = trial_votes(errors, ties=ties)
    trials = (~np.isnan(errors).all(axis=1)).sum(axis=1)[:, None]
    low, _ = share_sequence((shares == 1).sum(axis=2), trials, errors.shape[2], level)
    _, high = share_sequence((shares > 0).sum(axis=2), trials, errors.shape[2], level)
    return low, high


class ShareStop(StoppingRule):
    """Stops when the leading class's share of the full run's votes is known to a width.

    With more than two classes the interval's error is divided by their number, since the class is
    chosen after looking; with two, an interval of one is an interval of the other.
    """

    def __init__(
        self, width: float, num_classes: int, num_trials: int, ties: Ties = "split"
    ) -> None:
        """Compute the table of intervals, or take it from the cache.

        Args:
            width: Highest minus lowest share, in (0, 1).
            num_classes: K >= 2.
            num_trials: N of the full run.
            ties: How a tied trial's vote is counted.

        Raises:
            ConfigError: if width is not in (0, 1): every interval is at most 1 wide.
        """
        if not 0 < width < 1:
            raise ConfigError(
                f"--stop share:{width:g}: the width of the vote share's interval lies strictly "
                "between 0 and 1; use for instance share:0.1"
            )
        self.name = f"share:{width:g}"
        self.width, self.num_trials, self.ties = width, num_trials, ties
        self.level = LEVEL if num_classes == 2 else 1 - (1 - LEVEL) / num_classes
        n, s = np.tril_indices(num_trials + 1)
        low, high = share_sequence(s, n, num_trials, self.level)
        self.first_trials = int(n[high - low <= width + 1e-9].min())

    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return the first n at which the interval of the class with most wins is narrow enough."""
        sole, shared = win_counts(errors, self.ties)
        leader = shared.argmax(axis=0)[None]
        trials = np.arange(1, errors.shape[1] + 1)
        sole, shared = (np.take_along_axis(wins, leader, axis=0)[0] for wins in (sole, shared))
        low, _ = share_sequence(sole, trials, self.num_trials, self.level)
        _, high = share_sequence(shared, trials, self.num_trials, self.level)
        return first_time(high - low <= self.width + 1e-9)


@lru_cache(maxsize=16)
def _lowest_wins(num_trials: int, level: float) -> Int[np.ndarray, "N1 N1"]:
    """Return [n, s]: the smallest M in the confidence set after s of n trials; 0 where s > n."""
    if not 0 < level < 1:
        raise ConfigError(f"level {level:g}: a confidence level lies strictly between 0 and 1")
    n, s = np.tril_indices(num_trials + 1)
    log_data = betaln(s + PRIOR, n - s + PRIOR) - betaln(PRIOR, PRIOR)
    # A little too low rather than too high: rounding must not cut off an M that belongs.
    threshold = log_data + np.log1p(-level) - 1e-9
    # The likelihood rises up to its peak, so the end lies between s - 1 (impossible) and the peak.
    outside = s - 1
    inside = np.clip(s * (num_trials + 1) // np.maximum(n, 1), s, num_trials - n + s)
    while (inside - outside > 1).any():
        middle = np.where(inside - outside > 1, (inside + outside) // 2, inside)
        log_likelihood = log_choose(num_trials - n, middle - s) - log_choose(num_trials, middle)
        belongs = log_likelihood > threshold
        inside, outside = np.where(belongs, middle, inside), np.where(belongs, outside, middle)
    table = np.zeros((num_trials + 1, num_trials + 1), np.int64)
    table[n, s] = inside
    table.setflags(write=False)
    return table
