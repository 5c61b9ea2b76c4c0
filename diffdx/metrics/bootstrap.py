"""Intervals by resampling patients.

Images of one patient are no independent evidence, so the bootstrap draws patients, not images
(cluster bootstrap): from P patients it draws P with replacement, and an image counts as often as
its patient was drawn. A metric with a `weights` argument then needs no copy of the data, and the
same seed gives every metric and rule the same resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A value with its 95% bounds, in the value's unit; nan where undefined."""

    value: float
    low: float
    high: float


def patient_resamples(
    patient_ids: Sequence[str], *, n_resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "resamples n"]:
    """Return how often each image counts in each bootstrap resample of the patients.

    Args:
        patient_ids: The patient of each image.
        n_resamples: Number of resamples >= 1.
        seed: The resamples are a function of it and of the patients alone.

    Returns:
        Whole numbers >= 0, equal for the images of one patient; over the patients, each row sums to
        their number.

    Raises:
        ValueError: if there are no images or no resamples, since nothing could be drawn.
    """
    if len(patient_ids) == 0 or n_resamples < 1:
        raise ValueError("a bootstrap needs at least one image and one resample")
    patients, patient_of_image = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(seed).multinomial(len(patients), share, size=n_resamples)
    return drawn[:, patient_of_image].astype(np.float64)


def bootstrap_by_patient(
    metric: Callable[[Float[np.ndarray, "n"]], float], resamples: Float[np.ndarray, "resamples n"]
) -> Interval:
    """Return a metric of all images with its 95% percentile bootstrap interval.

    Args:
        metric: Maps image weights to the metric's value, such as `lambda w: accuracy(y, y_hat,
            weights=w)`.
        resamples: From `patient_resamples`.

    Returns:
        The value at weight one, and the 2.5 and 97.5 percentiles over the resamples. Resamples in
        which the metric is undefined (nan: a class was not drawn) are left out; bounds are nan if
        it is undefined in all.
    """
    values = np.array([metric(weights) for weights in resamples])
    values = values[~np.isnan(values)]
    value = metric(np.ones(resamples.shape[1]))
    if values.size == 0 or np.isnan(value):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(values, _TAILS)
    return Interval(float(value), float(low), float(high))
