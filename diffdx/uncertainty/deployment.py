"""Where a calibrated model is used: class shares there, given or found without a label."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffdx.errors import CheckpointError
from diffdx.uncertainty.calibration import CALIBRATION_FILE, Calibration
from diffdx.uncertainty.calibrators import Probabilities
from diffdx.uncertainty.prevalence import EM_MIN_IMAGES, correct_prevalence, estimate_prevalence


@dataclass(frozen=True)
class Deployment:
    """What the probabilities of some images were corrected to."""

    source: str
    """`calib`, `given` or `em`."""
    shares: dict[str, float]
    """Class shares."""

    def correct(self, prob: Probabilities, prior: dict[str, float]) -> Probabilities:
        """Return the probabilities at these shares.

        Args:
            prob: Probabilities at the shares `prior`.
            prior: Class shares of the calibration images.
        """
        ours, theirs = (np.array([shares[k] for k in prior]) for shares in (self.shares, prior))
        return correct_prevalence(prob, theirs, ours)


def find_deployment(entry: Calibration, prob: Probabilities) -> tuple[Deployment, list[str]]:
    """Return what the calibration says of the place where these images come from, and warnings.

    Args:
        entry: With `prevalence` given, or to be estimated from these images.
        prob: Of the images, at the prevalence of the calibration images.
    """
    if isinstance(entry.prevalence, dict):
        return Deployment("given", entry.prevalence), []
    as_calibrated = Deployment("calib", entry.prior)
    if entry.prevalence == "calib":
        return as_calibrated, []
    if len(prob) < EM_MIN_IMAGES:
        return as_calibrated, [
            f"--prevalence em needs at least {EM_MIN_IMAGES} images, there are "
            f"{len(prob)}: probabilities are for the prevalence of the calibration images"
        ]
    shares = estimate_prevalence(prob, np.array(list(entry.prior.values())))
    return Deployment("em", dict(zip(entry.prior, shares.tolist(), strict=True))), []


def read_deployment(folder: Path) -> Deployment:
    """Return what a predictions folder's `prob_` columns were corrected to.

    Raises:
        CheckpointError: if the folder's `calibration.json` does not say it: it is a run's, or
            damaged.
    """
    path = folder / CALIBRATION_FILE
    try:
        return Deployment(**json.loads(path.read_text(encoding="utf-8"))["deployed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: no entry 'deployed' ({type(error).__name__}); classify again"
        ) from None
