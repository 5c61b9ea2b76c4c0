"""How a calibration is fitted: probability model, conformal sets, triage and gate.

Sets and triage read the vote share: nothing is fitted to get it, so every calibration image counts
as a new image would, and the promise is exact. The probability model is fitted; how good it is, is
said by probabilities that each image has from a fit without its patient, choice of the model
included. The model that is saved is refitted to all images.

Where there are altered copies of the images (`diffdx.data.alterations`), the probability model is
fitted to images and copies alike: weights that the alterations mislead lose to weights that they do
not. Sets, triage and gate promise something of images like the calibration images, and never see a
copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffdx._typing import Errors, Labels, LogSNRs, Space
from diffdx.classification.stopping import clipping_bound, difference_bound
from diffdx.classification.voting import Ties, majority_vote, vote_share
from diffdx.classification.weighted import (
    Edges,
    LogSNRWeights,
    binned_differences,
    quantile_edges,
    trial_costs,
)
from diffdx.errors import DataError
from diffdx.uncertainty.calibration import (
    Calibration,
    ProbabilityModel,
    softmax_scores,
    vote_scores,
)
from diffdx.uncertainty.calibrators import Probabilities
from diffdx.uncertainty.choice import (
    SOFTMAX,
    STATISTICS,
    Features,
    choose_model,
    cross_fitted,
)
from diffdx.uncertainty.conformal import fit_conformal
from diffdx.uncertainty.out_of_distribution import fit_gate
from diffdx.uncertainty.reliability import reliability_summary
from diffdx.uncertainty.triage import fit_triage

BINS = 8
"""Bins of log-SNR that have a weight of their own."""
MIN_PATIENTS = 10
"""Patients of each class below which nothing is fitted: folds would hold one or none of them."""
_SPACES: tuple[Space, ...] = ("v", "eps", "x")


@dataclass(frozen=True)
class CalibrationImages:
    """Labelled images and their stored errors."""

    errors: Errors
    logsnr: LogSNRs
    labels: Labels
    patients: Sequence[str]
    """The patient of each image; an image of unknown patient is one of its own."""
    classes: tuple[str, ...]
    positive: str | None
    ties: Ties = "split"
    softmax: Probabilities | None = None
    """Of a baseline, whose errors hold no trial."""

    @property
    def shares(self) -> Probabilities:
        """What sets and triage read: vote shares, or a baseline's softmax."""
        if self.softmax is not None:
            return self.softmax
        return vote_share(majority_vote(self.errors, ties=self.ties))

    @property
    def statistics(self) -> tuple[str, ...]:
        """What a probability can be fitted to."""
        return STATISTICS if self.softmax is None else (SOFTMAX,)

    def features(self, edges: Edges) -> Features:
        """Return what statistics and weights are fitted to, in these bins of log-SNR."""
        if self.softmax is None:
            ready = vote_scores(self.errors, self.ties)
            binned = binned_differences(self.errors, self.logsnr, edges)
        else:
            ready = softmax_scores(self.softmax)
            binned = np.empty((*ready.shape, 0))
        return Features(ready, binned, self.labels, np.asarray(self.patients))

    def require_enough(self, where: str) -> None:
        """Check that there is something to fit to.

        Raises:
            DataError: if there is no image, only one class, or a class with too few patients, since
                what would be fitted could not be checked.
        """
        patients = np.asarray(self.patients)
        found = {
            name: len(set(patients[self.labels == k].tolist()))
            for k, name in enumerate(self.classes)
        }
        if not len(self.labels):
            raise DataError(
                f"{where}: no labelled image to calibrate on; give images of the role calib"
            )
        absent = [name for name, count in found.items() if not count]
        if absent:
            raise DataError(
                f"{where}: column label has no image of class {', '.join(absent)}; "
                "calibration needs images of every class"
            )
        few = {name: count for name, count in found.items() if count < MIN_PATIENTS}
        if few:
            counts = ", ".join(f"{count} of {name}" for name, count in few.items())
            raise DataError(
                f"{where}: too few patients to calibrate on ({counts}); "
                f"at least {MIN_PATIENTS} of each class are needed, add images"
            )


def fit_calibration(
    images: CalibrationImages,
    altered: CalibrationImages | None = None,
    *,
    stop: str,
    alpha: float = 0.1,
    prevalence: dict[str, float] | str = "calib",
    where: str = "calibration images",
    seed: int = 0,
) -> Calibration:
    """Return everything that `diffdx calibrate` saves for one way of stopping.

    Args:
        images: Labelled images of the role calib, stopped as the runs to calibrate stop.
        altered: Altered copies of such images, stopped likewise; they may have fewer trials.
        stop: The `stop_key` of those runs.
        alpha: Largest rate at which a conformal set may miss the true class, in (0, 1).
        prevalence: Class shares where the model is used: by class, `calib` or `em`.
        where: Names the images in messages.
        seed: Seed of the folds.

    Raises:
        DataError: if there is no image, only one class, or a class with too few patients.
    """
    images.require_enough(where)
    has_errors = images.softmax is None
    edges = quantile_edges(images.logsnr, BINS) if has_errors else np.empty(0)
    features, n = images.features(edges), len(images.labels)
    if altered is not None:
        features = features.joined(altered.features(edges))
    held_out = cross_fitted(features, images.statistics, seed)
    fitted = choose_model(features, images.statistics, seed)
    weights = fitted.linear.between(edges) if has_errors else None
    patients = [str(patient) for patient in images.patients]
    positive = None if images.positive is None else images.classes.index(images.positive)
    conformal = fit_conformal(images.shares, images.labels, alpha=alpha, groups=patients)
    triage = fit_triage(images.shares, images.labels, positive=positive, groups=patients)
    gate = fit_gate(images.errors, images.logsnr, groups=patients) if has_errors else None
    notices = [*conformal.notices(images.classes), *triage.notices()]
    counts = np.bincount(images.labels, minlength=len(images.classes))
    prior = np.bincount(features.labels, minlength=len(images.classes)) / len(features.labels)
    return Calibration(
        stop=stop,
        trials=images.errors.shape[2],
        counts={
            "n": n,
            "patients": len(set(patients)),
            "per_class": dict(zip(images.classes, counts.tolist(), strict=True)),
        },
        probability=ProbabilityModel(fitted.statistic, fitted.calibrator, weights, images.ties),
        candidates=fitted.candidates,
        held_out=reliability_summary(held_out[:n], images.labels, positive),
        held_out_altered=None
        if altered is None
        else {
            "n": len(altered.labels),
            **reliability_summary(held_out[n:], altered.labels, positive),
        },
        prior=dict(zip(images.classes, prior.tolist(), strict=True)),
        prevalence=prevalence,
        difference_bounds={} if weights is None else _difference_bounds(images, weights),
        conformal=conformal,
        triage=triage,
        gate=gate,
        warnings=(*notices, *(gate.notices() if gate is not None else ())),
    )


def _difference_bounds(images: CalibrationImages, weights: LogSNRWeights) -> dict[str, float]:
    """Return what a stopping rule clips differences at; none from stopped images' few trials."""
    if np.isnan(images.errors).any():
        return {}
    by_mean = {
        f"mean_{space}": difference_bound(images.errors, images.logsnr, space) for space in _SPACES
    }
    costs = trial_costs(weights)(images.errors, images.logsnr)
    return {**by_mean, "weighted": clipping_bound(costs)}
