"""One image's errors as a few numbers: how large they are, and how the classes differ.

Levels say how well an image is denoised under all classes together, leads how much better a class
does than the others, both in logarithms and by bins of log-SNR; the formulas stand in
`out_of_distribution`, which uses them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffdx._typing import Errors, LogSNRs

Table = Float[np.ndarray, "B F"]
_KNOTS = 24
_LEVELS_PER_LEAD = 2


@dataclass(frozen=True)
class Profile:
    """Levels by bin, then the leads of each class but the first by bin (two level bins each)."""

    means: Table
    """Over the trials in the bin; 0 without trials."""
    counts: Table
    """Trials in the bin."""
    squares: Table
    """Sum over those trials of the squared distance from their mean."""


def num_columns(num_classes: int, level_bins: int) -> int:
    """Return the number of columns of a profile: levels, and leads of all classes but one.

    Args:
        num_classes: K >= 2.
        level_bins: Bins of the levels, even.
    """
    return level_bins + (num_classes - 1) * level_bins // _LEVELS_PER_LEAD


def error_profile(errors: Errors, logsnr: LogSNRs, edges: Any, curve: Any) -> Profile:
    """Return the profile of each image.

    Args:
        errors: Mean squared v errors; NaN under every class of a trial that was not run, inf under
            an eliminated class.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        edges: Inner edges of the level bins, ascending; an odd number, as leads pair the bins.
        curve: Log-SNRs and the usual mean log error there, from `mean_curve`.
    """
    logs = _logs(errors)
    known = ~np.isnan(logs)
    evaluated, total = known.sum(axis=1), np.where(known, logs, 0).sum(axis=1)
    usual = np.interp(logsnr.astype(np.float64), *np.asarray(curve))
    level = np.where(evaluated > 0, total / np.maximum(evaluated, 1) - usual, np.nan)
    # Mean over the other classes, minus the class's own.
    lead = (total[:, None] - logs) / np.maximum(evaluated - 1, 1)[:, None] - logs
    bins = np.searchsorted(np.asarray(edges), logsnr, side="right")
    num_bins = len(np.asarray(edges)) + 1
    levels = _by_bin(level[:, None], bins, num_bins)
    # The leads of all classes sum to zero, so one class can be left out.
    leads = _by_bin(lead[:, 1:], bins // _LEVELS_PER_LEAD, num_bins // _LEVELS_PER_LEAD)
    parts = [
        np.concatenate([level_part[:, 0], *np.moveaxis(lead_part, 1, 0)], axis=1)
        for level_part, lead_part in zip(levels, leads, strict=True)
    ]
    return Profile(*parts)


def mean_curve(errors: Errors, logsnr: LogSNRs) -> Float[np.ndarray, "2 knots"]:
    """Return log-SNRs, and the mean log error of all images and classes there.

    Each point is the mean over equally many trials, neighbours in log-SNR.

    Args:
        errors: As for `error_profile`.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
    """
    logs = _logs(errors)
    known = ~np.isnan(logs)
    run = known.any(axis=1)
    means = (np.where(known, logs, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))[run]
    at = logsnr[run].astype(np.float64)
    cells = np.array_split(np.argsort(at, kind="stable"), min(_KNOTS, len(at)))
    return np.array([[values[cell].mean() for cell in cells] for values in (at, means)])


def _logs(errors: Errors) -> Errors:
    """Natural logarithms; NaN where a class was not evaluated."""
    positive = np.maximum(errors.astype(np.float64), np.finfo(np.float64).tiny)
    logs: Errors = np.log(np.where(np.isfinite(errors), positive, np.nan))
    return logs


def _by_bin(
    values: Float[np.ndarray, "B S N"], bins: Int[np.ndarray, "B N"], num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, counts and sums of squares about the mean, (B, S, bins), of the values not NaN."""
    shape = (*values.shape[:2], num_bins)
    means, counts, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    known = ~np.isnan(values)
    for j in range(num_bins):
        inside = known & (bins == j)[:, None]
        counts[:, :, j] = inside.sum(axis=2)
        total = np.where(inside, values, 0).sum(axis=2)
        means[:, :, j] = total / np.maximum(counts[:, :, j], 1)
        off = np.where(inside, values - means[:, :, j, None], 0)
        squares[:, :, j] = (off**2).sum(axis=2)
    return means, counts, squares
