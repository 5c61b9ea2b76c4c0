"""Are probabilities what they say? Reliability, proper scores and net benefit.

Of the images to which a class is given probability p, a fraction p should be of that class. With
images in bins g of n_g, mean probability p_g and fraction of the class f_g,

    ECE        sum_g n_g / n |p_g - f_g|              expected calibration error
    Brier      mean over images of sum_k (p_k - 1[y = k])^2
    log loss   mean over images of -log p_y, in nats

A perfectly calibrated model has an ECE above zero too, because f_g is a fraction of few images: its
`floor` is what such a model would show on images with these very probabilities. An ECE below the
floor says no more than one at it.

Net benefit (Vickers and Elkin 2006) of treating all images with probability >= t:
(true positives - false positives t / (1 - t)) / n, beside treating all, and none (0).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from diffdx._typing import Labels
from diffdx.uncertainty.calibrators import Probabilities

Binning = Literal["mass", "width"]
Target = tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]
"""What is claimed of each image, and whether it holds."""

BINS = 10
_LEAST = 1e-12


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram: a point for each bin that holds an image."""

    claimed: Float[np.ndarray, "bins"]
    """Mean probability."""
    observed: Float[np.ndarray, "bins"]
    """Fraction for which the claim held."""
    count: Float[np.ndarray, "bins"]
    """Images."""

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return float(self.count @ np.abs(self.claimed - self.observed) / self.count.sum())


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit against the threshold at which one would treat."""

    threshold: Float[np.ndarray, "points"]
    net_benefit: Float[np.ndarray, "points"]
    """Treating by probability, in true positives per image."""
    treat_all: Float[np.ndarray, "points"]
    """Treating every image."""


def claim(prob: Probabilities, labels: Labels, positive: int | None) -> Target:
    """Return the probability whose reliability is judged, and whether it held.

    With two classes and a positive one that is its probability; otherwise the probability of the
    likeliest class.
    """
    if positive is not None and prob.shape[1] == 2:
        return prob[:, positive], labels == positive
    y_hat = prob.argmax(axis=1)
    return prob.max(axis=1), labels == y_hat


def reliability(target: Target, *, bins: int = BINS, binning: Binning = "mass") -> Reliability:
    """Return the reliability diagram of a claim.

    Args:
        target: From `claim`.
        bins: Number of bins >= 1.
        binning: `mass` has equally many images in each bin (equal claims stay together), `width`
            divides [0, 1] evenly.

    Raises:
        ValueError: without images, where nothing is claimed.
    """
    claimed, held = target
    if len(claimed) == 0:
        raise ValueError("reliability needs at least one labelled image")
    group = _groups(claimed, bins, binning)
    count = np.bincount(group, minlength=bins).astype(float)
    kept = count > 0
    sums = [np.bincount(group, weights=w, minlength=bins)[kept] for w in (claimed, held)]
    return Reliability(sums[0] / count[kept], sums[1] / count[kept], count[kept])


def error_floor(
    claimed: Float[np.ndarray, "n"],
    *,
    bins: int = BINS,
    binning: Binning = "mass",
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return mean and 95% quantile of the ECE that perfectly calibrated claims would show.

    Outcomes are drawn with the claimed probabilities, n at a time.

    Args:
        claimed: Claimed probability of each image.
        bins: As in `reliability`.
        binning: As in `reliability`.
        draws: Simulated sets of outcomes.
        seed: Seed of the simulation.
    """
    group = _groups(claimed, bins, binning)
    held = np.random.default_rng(seed).random((draws, len(claimed))) < claimed
    members = group[:, None] == np.arange(bins)
    errors = np.abs((held - claimed) @ members).sum(axis=1) / len(claimed)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def reliability_summary(
    prob: Probabilities, labels: Labels, positive: int | None
) -> dict[str, float]:
    """Return ECE with its floor, Brier score and log loss of probabilities.

    Args:
        prob: Probability of each class.
        labels: True classes.
        positive: The class whose probability is judged; None = the likeliest class.
    """
    target = claim(prob, labels, positive)
    floor, floor_95 = error_floor(target[0])
    return {
        "ece": reliability(target).error,
        "ece_equal_width": reliability(target, binning="width").error,
        "ece_top_label": reliability(claim(prob, labels, None)).error,
        "ece_floor": floor,
        "ece_floor_95": floor_95,
        "brier": brier_score(prob, labels),
        "log_loss": log_loss(prob, labels),
    }


def brier_score(
    prob: Probabilities, labels: Labels, *, weights: Float[np.ndarray, "B"] | None = None
) -> float:
    """Return the mean squared distance between probabilities and truth, in [0, 2]."""
    squared = ((prob - np.eye(prob.shape[1])[labels]) ** 2).sum(axis=1)
    return float(np.average(squared, weights=weights))


def log_loss(
    prob: Probabilities, labels: Labels, *, weights: Float[np.ndarray, "B"] | None = None
) -> float:
    """Return the mean negative logarithm of the true class's probability, in nats."""
    return float(np.average(log_losses(prob, labels), weights=weights))


def log_losses(prob: Probabilities, labels: Labels) -> Float[np.ndarray, "B"]:
    """Return -log p_y of each image, at most about 28 nats (p_y below 1e-12 counts as that)."""
    return np.asarray(-np.log(np.maximum(prob[np.arange(len(labels)), labels], _LEAST)))


def decision_curve(target: Target, *, points: int = 99) -> DecisionCurve:
    """Return the net benefit at evenly spaced thresholds inside (0, 1).

    Args:
        target: Probability of the positive class, and which images are of it.
        points: Number of thresholds.
    """
    claimed, held = target
    threshold = np.arange(1, points + 1) / (points + 1)
    odds = threshold / (1 - threshold)
    treated = claimed >= threshold[:, None]
    prevalence = held.mean()
    benefit = (treated & held).mean(axis=1) - odds * (treated & ~held).mean(axis=1)
    return DecisionCurve(threshold, benefit, prevalence - odds * (1 - prevalence))


def _groups(claimed: Float[np.ndarray, "n"], bins: int, binning: Binning) -> np.ndarray:
    if binning == "width":
        return np.minimum((claimed * bins).astype(np.int64), bins - 1)
    _, position, count = np.unique(claimed, return_inverse=True, return_counts=True)
    # The rank of a value is that of the middle of its images, so equal claims share a bin.
    middle = (np.cumsum(count) - count / 2) / len(claimed)
    return np.minimum((middle * bins).astype(np.int64), bins - 1)[position]
