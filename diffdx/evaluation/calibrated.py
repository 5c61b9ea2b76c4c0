"""What calibrated predictions are worth: the entry `calibration` of `summary.json`.

Probabilities are read from the table, as users read them; those before the prevalence correction
are recomputed from the errors.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from diffdx.evaluation.predictions import StoredPredictions
from diffdx.metrics import accuracy, balanced_accuracy, bootstrap_by_patient
from diffdx.uncertainty.conformal import set_coverage
from diffdx.uncertainty.deployment import Deployment, read_deployment
from diffdx.uncertainty.reliability import brier_score, log_loss, reliability_summary
from diffdx.uncertainty.selective import selective_summary
from diffdx.uncertainty.triage import triage_summary

Json = dict[str, Any]

EXCHANGEABLE = (
    "Probabilities, conformal sets and triage promise what they say for images exchangeable with "
    "the calibration images: same site, scanner, patients and, but for sets by class, prevalence. "
    "Elsewhere the figures here are measured, not guaranteed."
)


def bootstrap(
    metric: Callable[..., float], resamples: Float[np.ndarray, "resamples n"]
) -> Json | None:
    """Return `{value, low, high}` of a metric that takes `weights`; None if it is not defined."""
    interval = bootstrap_by_patient(lambda weights: metric(weights=weights), resamples)
    if math.isnan(interval.value):
        return None
    bounds = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in bounds.items()}


def calibration_summary(
    known: StoredPredictions, resamples: Float[np.ndarray, "resamples n"]
) -> Json | None:
    """Return how good probabilities, sets and triage are; None where nothing is calibrated.

    Args:
        known: Labelled predictions.
        resamples: From `patient_resamples`.

    Returns:
        `{method, statistic, prevalence, ece, ece_uncorrected, ece_floor, brier, log_loss, accuracy,
        balanced_accuracy, alpha, coverage, triage, selective, ood}`. The decisions scored are those
        of the largest probability; `selective` takes the images in order of its distance from 1.
    """
    entry = known.calibration
    if entry is None:
        return None
    y, classes = known.labels, known.classes
    prob = known.probabilities
    deployed = read_deployment(known.folder)
    model = entry.probability
    uncorrected = model.probabilities(known.errors, known.logsnr, known.softmax)
    y_hat = prob.argmax(axis=1).astype(np.int64)
    found = reliability_summary(prob, y, known.positive)
    before = reliability_summary(uncorrected, y, known.positive)
    scored: dict[str, Callable[..., float]] = {
        "brier": partial(brier_score, prob, y),
        "log_loss": partial(log_loss, prob, y),
        "accuracy": partial(accuracy, y, y_hat),
        "balanced_accuracy": partial(balanced_accuracy, y, y_hat, num_classes=len(classes)),
    }
    return {
        "method": model.calibrator.method,
        "statistic": model.statistic,
        "prevalence": _prevalence(known, entry.prior, deployed),
        **found,
        **{f"{name}_uncorrected": before[name] for name in ("ece", "brier", "log_loss")},
        **{name: bootstrap(metric, resamples) for name, metric in scored.items()},
        "alpha": entry.conformal.alpha,
        "coverage": set_coverage(entry.conformal.sets(known.shares), y, classes),
        "triage": triage_summary(
            known.table["triage"].tolist(), y, y_hat, positive=entry.triage.positive
        ),
        "selective": selective_summary(y_hat == y, 1 - prob.max(axis=1)),
        "ood": entry.gate and {"flagged": float(known.table["ood"].astype(bool).mean())},
    }


def _prevalence(known: StoredPredictions, prior: dict[str, float], deployed: Deployment) -> Json:
    labels = np.bincount(known.labels, minlength=len(known.classes)) / len(known.labels)
    return {
        "source": deployed.source,
        "calib": prior,
        "deployed": deployed.shares,
        "labels": dict(zip(known.classes, labels.tolist(), strict=True)),
    }
