"""The weighted statistic: error differences, weighted by the noise level at which they were seen.

How much an error difference says depends on the log-SNR of its trial. With log-SNR cut into M bins
and one weight w_m >= 0 for each, the same for all classes,

    d[b, k, n]  = mean over j != k of errors[b, j, n]  -  errors[b, k, n]
    score[b, k] = sum_m w_m  mean over the trials n of bin m of d[b, k, n]  +  bias_k

(spec section 3). Larger = more like class k; the largest score decides. With two classes the
difference of the scores is a logistic regression's log-odds, with more their softmax is. The biases
are fitted to equally frequent classes, so that the score, like a vote share, knows no prevalence.

A bin without a trial (an image that stopped early) adds nothing: no evidence either way. Everything
is numpy and reads stored errors; `diffdx.uncertainty.fit` finds the weights.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffdx._typing import Errors, LogSNRs

Scores = Float[np.ndarray, "B K"]
"""Larger = more like the class; a common shift of an image's scores means nothing."""
Edges = Float[np.ndarray, "edges"]
"""M - 1 inner bounds of M bins of log-SNR, ascending, in nats."""


@dataclass(frozen=True)
class LogSNRWeights:
    """What a bin of log-SNR counts, and what each class starts with."""

    edges: tuple[float, ...]
    """M - 1 inner bounds of the bins, ascending, in nats of log-SNR."""
    weights: tuple[float, ...]
    """M weights >= 0, per unit of mean squared v error."""
    biases: tuple[float, ...]
    """K scores of an image whose errors are the same under every class."""

    def as_dict(self) -> dict[str, Any]:
        """Return a value that JSON can hold."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "LogSNRWeights":
        """Return what `as_dict` stored."""
        return cls(*(tuple(stored[name]) for name in ("edges", "weights", "biases")))


def quantile_edges(logsnr: LogSNRs, bins: int) -> Edges:
    """Return inner bounds that cut log-SNR into bins with equally many trials.

    Args:
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        bins: Number of bins >= 1.
    """
    return np.quantile(logsnr.astype(np.float64), np.arange(1, bins) / bins)


def error_differences(errors: Errors) -> Errors:
    """Return d[b, k, n], how much worse the other classes denoise than class k, in float64.

    NaN where the trial was not run or class k had been eliminated. The mean is over the other
    classes still in the race; 0 if there is none.

    Args:
        errors: Mean squared v errors >= 0; `inf` = eliminated class, NaN = trial not run.
    """
    evaluated = np.isfinite(errors)
    known = np.where(evaluated, errors, 0.0).astype(np.float64)
    others = evaluated.sum(axis=1, keepdims=True) - 1
    mean = (known.sum(axis=1, keepdims=True) - known) / np.maximum(others, 1)
    differences: Errors = np.where(evaluated, np.where(others > 0, mean - known, 0.0), np.nan)
    return differences


def binned_differences(errors: Errors, logsnr: LogSNRs, edges: Edges) -> Float[np.ndarray, "B K M"]:
    """Return the mean error difference of each bin of log-SNR; 0 in a bin without a trial.

    Args:
        errors: Mean squared v errors >= 0; `inf` = eliminated class, NaN = trial not run.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        edges: Inner bounds of the bins, ascending.
    """
    differences = error_differences(errors)
    run = ~np.isnan(differences)
    differences = np.where(run, differences, 0.0)
    bins = _bins(logsnr, edges)[:, None, :]
    means = []
    for m in range(len(edges) + 1):
        inside = bins == m
        total = np.where(inside, differences, 0.0).sum(axis=2)
        means.append(total / np.maximum((inside & run).sum(axis=2), 1))
    return np.stack(means, axis=2)


def weighted_scores(errors: Errors, logsnr: LogSNRs, weights: LogSNRWeights) -> Scores:
    """Return the weighted statistic of each class; -inf for a class that was eliminated.

    score[b, k] = sum_m w_m mean_{n in m} d[b, k, n] + bias_k        (spec section 3)

    Args:
        errors: Mean squared v errors >= 0; `inf` = eliminated class, NaN = trial not run.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        weights: From `diffdx calibrate`.

    Raises:
        ValueError: if the weights are those of another number of classes.
    """
    biases = _biases(errors, weights)
    binned = binned_differences(errors, logsnr, np.array(weights.edges))
    scores: Scores = binned @ np.array(weights.weights) + biases
    return np.where(np.isinf(errors).any(axis=2), -np.inf, scores)


def trial_costs(weights: LogSNRWeights) -> Callable[[Errors, LogSNRs], Errors]:
    """Return what a stopping rule adds up for the weighted statistic; the smallest sum wins.

    cost[b, k, n] = -(M w_m d[b, k, n] + bias_k)

    Each of the M bins is taken to hold an M-th of the trials, which their bounds are made for: how
    many trials of a bin an image will have is not known when it stops. So the sum over a full run
    and the statistic may decide differently where they are next to a tie.

    Args:
        weights: From `diffdx calibrate`.
    """
    factors, biases = len(weights.weights) * np.array(weights.weights), np.array(weights.biases)

    def costs(errors: Errors, logsnr: LogSNRs) -> Errors:
        factor = factors[_bins(logsnr, np.array(weights.edges))]
        found: Errors = -(error_differences(errors) * factor[:, None, :] + biases[:, None])
        return np.where(np.isinf(errors), np.inf, found)

    return costs


def _bins(logsnr: LogSNRs, edges: Edges) -> Int[np.ndarray, "B N"]:
    return np.searchsorted(edges, logsnr, side="right").astype(np.int64)


def _biases(errors: Errors, weights: LogSNRWeights) -> Float[np.ndarray, "K"]:
    if errors.shape[1] != len(weights.biases):
        raise ValueError(
            f"the weights were fitted to {len(weights.biases)} classes, the errors have "
            f"{errors.shape[1]}; use the calibration of this model"
        )
    return np.array(weights.biases)
