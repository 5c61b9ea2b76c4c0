"""What a stopping rule is, and what it makes of a run that was not stopped."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Bool, Float

from diffdx._typing import Errors, LogSNRs
from diffdx.classification.stopping.elimination import Elimination
from diffdx.errors import DataError


class StoppingRule(ABC):
    """Says after how many trials an image is decided, from its trials so far and nothing else.

    The trials of an image come in a uniformly random order, so those so far are draws without
    replacement from the `num_trials` of the full run. A time once reached stays: on every longer
    prefix `stopping_time` returns the same.

    Attributes:
        name: The rule as it is written after `--stop`.
        first_trials: No image stops before this many trials.
    """

    name: str
    first_trials: int

    @abstractmethod
    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return after how many of these trials (1 to n) the image stops; None = it goes on.

        Args:
            errors: Mean squared v errors of the first n trials; `inf` = eliminated class.
            logsnr: log(alpha^2 / sigma^2) of these trials, in nats.
        """


class NoStop(StoppingRule):
    """Every trial of the run."""

    name = "none"

    def __init__(self, num_trials: int) -> None:
        """Take N, the trials of the full run."""
        self.first_trials = num_trials

    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return None: only the end of the run stops it."""
        return None


def first_time(stops: Bool[np.ndarray, "n"]) -> int | None:
    """Return the number of trials at the first True, None if there is none."""
    return int(stops.argmax()) + 1 if stops.any() else None


def truncated(
    errors: Errors,
    logsnr: LogSNRs,
    stop: StoppingRule,
    elimination: Elimination | None = None,
) -> Errors:
    """Return the errors that a run with these rules would have stored: the replay of a full run.

    A class is `inf` in the trials after it was eliminated, every class NaN in the trials after the
    image stopped, be it by the rule or because one class only was left.

    Args:
        errors: Mean squared v errors of every trial of the run.
        logsnr: log(alpha^2 / sigma^2) of every trial, in nats.
        stop: When an image is decided.
        elimination: When a class is given up; None keeps all.

    Raises:
        DataError: if a trial is missing, since the run cannot be replayed beyond it.
    """
    if np.isnan(errors).any():
        raise DataError(
            "errors.parquet holds images that had stopped: only a run with --stop none can be "
            "replayed under another rule; classify again with --stop none"
        )
    replayed = errors.copy()
    for image, image_logsnr in zip(replayed, logsnr, strict=True):
        end = image.shape[1]
        if elimination is not None:
            end = elimination.apply(image)[1] or end
        image[:, min(end, stop.stopping_time(image, image_logsnr) or end) :] = np.nan
    return replayed
