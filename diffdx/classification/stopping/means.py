"""When a mean rule, or any rule that adds up one number per trial, is decided.

Class i beats class j in the full run if the N differences d_n = cost_j - cost_i have a positive
sum. They come in random order, so after n of them the next one's expectation, were the full sum 0,
is the mean of what would be left,

    m_n = -(d_1 + ... + d_{n-1}) / (N - n + 1),

and less if the sum is negative. Whoever bets on positive differences against that expectation,

    W_n = prod_{k<=n} (1 + c (d_k - m_k) / (bound + m_k)),       |d_k| <= bound,  0 < c < 1,

cannot win in the mean: W is non-negative with E[W] <= 1, so P(W ever reaches 1/delta) <= delta by
Ville's inequality (testing by betting without replacement: Waudby-Smith and Ramdas 2020). Half the
stake is bet with each of two fixed c: estimating c from the trials cost more calls than it saved.

Differences have long tails, and a bound that holds for all of them makes bets small. So they are
**clipped** to +-bound before they are added up. The guarantee is then for the decision by clipped
differences, and the assumption is that it equals the decision by the differences themselves. The
bound is the smallest for which this holds for every image of a calibration set
(`clipping_bound`). If a new image is exchangeable with n calibration images, it needs a larger
one with probability at most 1/(n+1). Hence, on average over images,

    P(decision differs from the full run's) <= delta + 1/(n+1),

for images like the calibration images only; `DELTA` on the vote assumes nothing about images.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from diffdx._typing import Errors, LogSNRs, Space
from diffdx.classification.stopping.boundary import require_delta
from diffdx.classification.stopping.rule import StoppingRule, first_time
from diffdx.classification.voting import to_space
from diffdx.errors import ConfigError, DataError

Costs = Callable[[Errors, LogSNRs], Errors]
"""From v errors and log-SNR to one number per class and trial; the smallest sum wins."""

BETS = (0.3, 0.9)
"""c: the parts of the largest safe bet, chosen on the calibration images."""


def space_costs(space: Space) -> Costs:
    """Return the costs of a mean rule: the errors in its space.

    Args:
        space: `v`, `eps` or `x`.
    """
    return lambda errors, logsnr: to_space(errors, logsnr, space)


def difference_bound(errors: Errors, logsnr: LogSNRs, space: Space) -> float:
    """Return the clipping bound of a mean rule, from the full run of a calibration set.

    Args:
        errors: Mean squared v errors; every trial run, no class eliminated.
        logsnr: log(alpha^2 / sigma^2) of the trials, in nats.
        space: `v`, `eps` or `x`.

    Raises:
        DataError: as `clipping_bound`.
    """
    return clipping_bound(to_space(errors, logsnr, space))


def clipping_bound(costs: Errors) -> float:
    """Return the smallest size of a difference from which on clipping changes no decision.

    For each image and each loser, sum_n clip(cost_loser - cost_winner, +-bound) is positive at
    every bound from the returned one on; it is linear between the sizes of the differences.

    Args:
        costs: (B, K, N), what the rule adds up for each class, any unit; the smallest sum wins.

    Raises:
        DataError: if a trial is missing, or the classes' costs never differ, which leaves nothing
            to bound.
    """
    if not np.isfinite(costs).all():
        raise DataError(
            "errors.parquet of the calibration images lacks trials or classes: the bound of a mean "
            "rule needs a run with --stop none and without --eliminate"
        )
    winners = costs.sum(axis=2).argmin(axis=1)
    bounds = [
        _image_bound(image, best) for image, best in zip(costs, winners.tolist(), strict=True)
    ]
    if not bounds or max(bounds) == 0:
        raise DataError(
            "errors.parquet of the calibration images: no image, or all classes have the same "
            "errors; check the images and that the model was trained with classes"
        )
    return max(bounds)


def _image_bound(costs: Float[np.ndarray, "K N"], winner: int) -> float:
    """Return the smallest size of a difference from which on every clipped sum is positive."""
    differences = np.delete(costs, winner, axis=0) - costs[winner]
    order = np.abs(differences).argsort(axis=1)
    differences = np.take_along_axis(differences, order, axis=1)
    sizes = np.abs(differences)
    signs_from_here = np.sign(differences)[:, ::-1].cumsum(axis=1)[:, ::-1]
    clipped_sums = differences.cumsum(axis=1) + sizes * (signs_from_here - np.sign(differences))
    num_trials = sizes.shape[1]
    # Sums at the sizes from the last one on that is not positive; the next size is large enough.
    wrong = (clipped_sums <= 0)[:, ::-1]
    needed = np.where(wrong.any(axis=1), num_trials - wrong.argmax(axis=1), 0)
    return float(sizes[np.arange(len(sizes)), np.minimum(needed, num_trials - 1)].max())


def log_capital(
    differences: Float[np.ndarray, "P n"], num_trials: int, bound: float
) -> Float[np.ndarray, "P n"]:
    """Return log W_n after each trial, for each row: evidence that the row's full sum is positive.

    Reaches log(1/delta) with probability at most delta if the sum over all trials of the row's
    clipped differences is not positive.

    Args:
        differences: The first n trials of each row, any unit.
        num_trials: N of the full run.
        bound: Size at which differences are clipped, in the same unit, > 0.
    """
    d = np.clip(differences, -bound, bound)
    remaining = num_trials - np.arange(d.shape[1])
    mean_left = -(d.cumsum(axis=1) - d) / remaining
    room = bound + mean_left
    # Not even differences of -bound in all the remaining trials would turn the sum.
    certain = room <= 0
    gain = np.where(certain, 0.0, (d - mean_left) / np.where(certain, 1.0, room))
    logs = [np.log1p(c * gain).cumsum(axis=1) for c in BETS]
    mixed = np.logaddexp.reduce(logs) - np.log(len(BETS))
    capital: Float[np.ndarray, "P n"] = np.where(certain, np.inf, mixed)
    return capital


class MeanStop(StoppingRule):
    """Stops when the class of least cost so far has won its bets against every other.

    The assumption and what is guaranteed under it are in the module docstring; with K classes each
    bet is held to delta / (K - 1).
    """

    def __init__(
        self, delta: float, num_classes: int, num_trials: int, costs: Costs, bound: float
    ) -> None:
        """Take a delta in (0, 1), what the rule adds up, and where its differences are clipped.

        Raises:
            ConfigError: if delta is not in (0, 1), or the bound is no positive number.
        """
        require_delta(delta)
        if not (np.isfinite(bound) and bound > 0):
            raise ConfigError(
                f"bound {bound:g} on error differences: it must be a positive number; run "
                "`diffdx calibrate` to measure it"
            )
        self.name = f"{delta:g}"
        self.num_trials, self.costs, self.bound = num_trials, costs, bound
        self.log_threshold = float(np.log(num_classes - 1) - np.log(delta))
        # Nothing wins faster than differences that are all as large as they may be.
        fastest = log_capital(np.full((1, num_trials), bound), num_trials, bound)[0]
        self.first_trials = first_time(fastest >= self.log_threshold) or num_trials

    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return the first n at which the bets on the leading class have all been won."""
        cost = self.costs(errors[None], logsnr[None])[0]
        leader = cost.cumsum(axis=1).argmin(axis=0)
        stops = np.zeros(cost.shape[1], bool)
        for i in np.unique(leader):
            differences = np.delete(cost, i, axis=0) - cost[i]
            capital = log_capital(differences, self.num_trials, self.bound)
            stops |= (leader == i) & (capital >= self.log_threshold).all(axis=0)
        return first_time(stops)
