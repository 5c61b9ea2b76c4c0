"""Where a calibrated model is used: class shares there, and how far the site moves the scores."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffdx._typing import Errors, LogSNRs
from diffdx.errors import CheckpointError, ConfigError
from diffdx.uncertainty.calibration import CALIBRATION_FILE, Calibration
from diffdx.uncertainty.calibrators import Probabilities
from diffdx.uncertainty.prevalence import EM_MIN_IMAGES, correct_prevalence, estimate_prevalence
from diffdx.uncertainty.site import estimate_site


@dataclass(frozen=True)
class Deployment:
    """What the probabilities of some images were corrected to."""

    source: str
    """`calib`, `given`, `em` or `site`."""
    shares: dict[str, float]
    """Class shares."""
    shift: float
    """By how much the site moves the scores; 0 unless `site` found it."""

    def correct(self, prob: Probabilities, prior: dict[str, float]) -> Probabilities:
        """Return the probabilities at these shares.

        Args:
            prob: Probabilities at the shares `prior`, the shift of the scores taken back.
            prior: Class shares of the calibration images.
        """
        ours, theirs = (np.array([shares[k] for k in prior]) for shares in (self.shares, prior))
        return correct_prevalence(prob, theirs, ours)


def find_deployment(
    entry: Calibration, errors: Errors, logsnr: LogSNRs
) -> tuple[Deployment, list[str]]:
    """Return what the calibration says of the place where these images come from, and warnings.

    Args:
        entry: With `prevalence` given, or to be estimated from these images.
        errors: Mean squared v errors of the images, whose labels are not needed.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.

    Raises:
        ConfigError: if a site's shift is wanted, but the probability reads votes.
    """
    if isinstance(entry.prevalence, dict):
        return Deployment("given", entry.prevalence, 0.0), []
    as_calibrated = Deployment("calib", entry.prior, 0.0)
    model, density = entry.probability, entry.probability.density
    if entry.prevalence == "calib":
        return as_calibrated, []
    if entry.prevalence == "site" and (model.statistic != "weighted" or density is None):
        raise ConfigError(
            "--prevalence site needs a calibration of the weighted statistic; "
            "run `diffdx calibrate` with --prevalence site"
        )
    if len(errors) < EM_MIN_IMAGES:
        return as_calibrated, [
            f"--prevalence {entry.prevalence} needs at least {EM_MIN_IMAGES} images, there are "
            f"{len(errors)}: probabilities are for the prevalence of the calibration images"
        ]
    prior = np.array(list(entry.prior.values()))
    scores = model.scores(errors, logsnr)
    shift = 0.0
    if entry.prevalence == "site" and density is not None:
        shift, shares = estimate_site(model.calibrator, density, scores, prior)
    else:
        shares = estimate_prevalence(model.calibrator.probabilities(scores), prior)
    found = dict(zip(entry.prior, shares.tolist(), strict=True))
    return Deployment(entry.prevalence, found, shift), []


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
