"""Uncertainty of a vote (paper sections 2.3 and 4.4).

The shares of the votes are read as a distribution over the classes (Bernoulli for two):

    entropy in bits    H = -sum_k share_k log2 share_k

which is 0 if all trials agree and log2 K if the classes share evenly.

The share is an effect size, not a calibrated probability: 60% of 501 votes lies 4.5 standard errors
from a tie, and says nothing yet about how often such images are classified rightly. What entropy is
worth is therefore measured: see `selective`.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv

from diffdx._typing import Errors, VoteShare
from diffdx.classification.voting import vote_entropy as vote_entropy


def vote_margin(share: VoteShare) -> Float[np.ndarray, "B"]:
    """Return the lead of the first class over the second, in votes per trial, 0 (tie) to 1."""
    second, first = np.sort(share, axis=1)[:, -2:].T
    return np.asarray(first - second)


def margin_variance(errors: Errors) -> Float[np.ndarray, "B"]:
    """Return the variance over the trials of the lead of an image's best class.

    d[n] = errors[second, n] - errors[best, n];   sum_n (d[n] - mean d)^2 / (N - 1)

    with best and second the classes of smallest mean error. Divided by the number of trials, it is
    the squared standard error of the mean rule's margin.

    Args:
        errors: Mean squared errors; NaN under every class of a trial that was not run, inf under an
            eliminated class. A trial counts where both classes were evaluated.

    Returns:
        Squared unit of the errors; nan with fewer than two such trials.
    """
    total = np.where(np.isnan(errors), 0, errors).sum(axis=2, dtype=np.float64)
    best, second = np.argsort(total, axis=1, kind="stable")[:, :2].T
    image = np.arange(len(errors))
    lead = errors[image, second].astype(np.float64) - errors[image, best]
    counted = np.isfinite(lead)
    trials = counted.sum(axis=1)
    mean = np.where(counted, lead, 0).sum(axis=1) / np.maximum(trials, 1)
    squares = np.where(counted, lead - mean[:, None], 0) ** 2
    return np.where(trials > 1, squares.sum(axis=1) / np.maximum(trials - 1, 1), np.nan)


def share_interval(
    votes: Float[np.ndarray, "B"], trials: Float[np.ndarray, "B"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """Return bounds of the share of votes that a class would win with endlessly many trials.

    Jeffreys' interval: quantiles of Beta(votes + 1/2, trials - votes + 1/2), with the lower bound 0
    where no trial was won and the upper bound 1 where all were. It says how exactly the share is
    known, not how often it is right.

    Args:
        votes: Votes that the class won, 0 to `trials`; halves of split ties are allowed.
        trials: Number of trials of each image, >= 1.
        level: Probability of the interval, in (0, 1).

    Raises:
        ValueError: if votes exceed the trials or the level is no probability; the quantiles do not
            exist.
    """
    if (votes < 0).any() or (votes > trials).any() or (trials < 1).any():
        raise ValueError("votes must lie in 0..trials, with at least one trial an image")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), for example 0.95; it is {level}")
    tail = (1 - level) / 2
    a, b = votes + 0.5, trials - votes + 0.5
    low = np.where(votes == 0, 0.0, betaincinv(a, b, tail))
    high = np.where(votes == trials, 1.0, betaincinv(a, b, 1 - tail))
    return low, high
