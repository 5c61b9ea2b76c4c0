"""Uncertainty of a vote (paper sections 2.3 and 4.4).

The shares of the votes are read as a distribution over the classes (Bernoulli for two):

    entropy in bits    H = -sum_k share_k log2 share_k

which is 0 if all trials agree and log2 K if the classes share evenly.

The share is an effect size, not a calibrated probability: 60% of 501 votes lies 4.5 standard errors
from a tie, and says nothing yet about how often such images are classified rightly. What entropy is
worth is therefore measured: the accuracy of the images that remain after the most uncertain have
been taken out (paper Fig. 3 and 8).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import betaincinv

from diffdx._typing import VoteShare
from diffdx.classification.voting import vote_entropy as vote_entropy


def vote_margin(share: VoteShare) -> Float[np.ndarray, "B"]:
    """Return the lead of the first class over the second, in votes per trial, 0 (tie) to 1."""
    second, first = np.sort(share, axis=1)[:, -2:].T
    return np.asarray(first - second)


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


@dataclass(frozen=True)
class SelectiveAccuracy:
    """Accuracy of the most certain images: point i keeps all but the i most uncertain of n."""

    removed: Float[np.ndarray, "n"]
    """Fraction taken out, 0 to (n - 1) / n, ascending."""
    accuracy: Float[np.ndarray, "n"]
    """Accuracy of those kept."""


def selective_accuracy(
    correct: Bool[np.ndarray, "n"], uncertainty: Float[np.ndarray, "n"]
) -> SelectiveAccuracy:
    """Return accuracy against the fraction of images filtered out (paper Fig. 3 and 8).

    Images of equal uncertainty have no order, so each counts with the accuracy of its group: the
    expectation over all orders, and the same curve however the images are listed.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain, any unit; no nan.

    Raises:
        ValueError: if there is no image or an uncertainty is nan, since it could not be ranked.
    """
    if len(correct) == 0 or np.isnan(uncertainty).any():
        raise ValueError(
            "selective accuracy needs at least one image and no nan among the uncertainties"
        )
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    expected = np.bincount(group, weights=correct)[group] / size[group]
    kept = np.arange(1, len(correct) + 1)
    accuracy = np.cumsum(expected[np.argsort(group, kind="stable")]) / kept
    return SelectiveAccuracy(removed=1 - kept[::-1] / len(correct), accuracy=accuracy[::-1])
