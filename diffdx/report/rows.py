"""The rows of a page's tables: each entry's place in its result file, and its name in words."""

from typing import Any

from diffdx.report.marked import Place, Source

Rows = list[tuple[Place, str]]

METRICS: Rows = [
    (("accuracy",), "Accuracy"),
    (("balanced_accuracy",), "Balanced accuracy"),
    (("f1",), "F1"),
    (("auroc",), "AUROC"),
]
SHORT: Rows = [
    (("n",), "images"),
    (("nfe", "mean"), "network calls an image"),
    (("rule",), "rule"),
]
IMAGES: Rows = [
    (("n",), "images"),
    (("n_failed",), "without a prediction"),
    (("n_unlabelled",), "without a label"),
    (("classes",), "classes"),
    (("positive",), "positive class"),
]
METHOD: Rows = [
    (("kind",), "kind of model"),
    (("rule",), "rule"),
    (("space",), "space of the errors"),
    (("trials",), "trials per image"),
    (("bank",), "bank"),
    (("stop",), "early stopping"),
    (("seed",), "seed"),
    (("ties",), "tied trials"),
    (("n_ties",), "tied decisions"),
    (("bootstrap", "resamples"), "bootstrap resamples"),
    (("model_sha256",), "weights (SHA-256)"),
]
COST: Rows = [
    (("nfe", "mean"), "network calls an image, mean"),
    (("nfe", "median"), "median"),
    (("nfe", "p95"), "95th percentile"),
    (("nfe", "full"), "without stopping"),
    (("seconds",), "seconds in all"),
    (("images_per_second",), "images a second"),
    (("device",), "device"),
    (("precision",), "precision"),
]
_PROBABILITIES: Rows = [
    (("method",), "calibrator"),
    (("statistic",), "reads"),
    (("prevalence", "source"), "prevalence assumed from"),
    (("ece",), "calibration error (ECE)"),
    (("ece_uncorrected",), "ECE before the prevalence correction"),
    (("ece_floor",), "ECE of perfect probabilities on so few images"),
    (("brier",), "Brier score"),
    (("log_loss",), "log loss (nats)"),
    (("accuracy",), "accuracy of the likeliest class"),
    (("ood", "flagged"), "share flagged as foreign"),
]
_SETS: Rows = [
    (("alpha",), "share of misses allowed"),
    (("coverage", "marginal"), "sets that hold the truth"),
    (("coverage", "single"), "sets of one class"),
    (("coverage", "empty"), "empty sets, to be referred"),
]
_SELECTIVE: Rows = [
    (("selective", "auroc_error"), "AUROC of the uncertainty against error"),
    (("selective", "aurc"), "area under the risk-coverage curve"),
]
TRIAGE_ANSWERS = {
    "rule-in": ("ppv", "ruled in"),
    "rule-out": ("npv", "ruled out"),
    "answer": ("accuracy", "answered"),
    "refer": (None, "referred"),
}
"""Answers of the triage: the share that says how often they are right, and their name."""
TRAINING: Rows = [
    (("dataset",), "data"),
    (("data_fingerprint",), "fingerprint of the data"),
    (("started",), "training started"),
    (("steps",), "training steps"),
    (("images_seen",), "images seen"),
    (("train_seconds",), "training seconds"),
    (("parameters",), "parameters"),
    (("device",), "device"),
    (("precision",), "precision"),
    (("seed",), "seed"),
    (("best_validation_auroc",), "AUROC on validation images"),
    (("best_validation_f1",), "F1 on validation images"),
]


def probability_rows() -> Rows:
    """Return the rows of what calibrated probabilities are worth."""
    return _of_calibration(_PROBABILITIES)


def set_rows(calibration: dict[str, Any]) -> Rows:
    """Return the rows of conformal sets, with one for each class."""
    by_class: Rows = [
        (("coverage", "per_class", name), f"sets that hold the truth, label {name}")
        for name in calibration["coverage"]["per_class"]
    ]
    return _of_calibration([*_SETS, *by_class])


def selective_rows(calibration: dict[str, Any]) -> Rows:
    """Return the rows of what leaving the uncertain images out is worth."""
    kept: Rows = [
        (("selective", "accuracy_at", share), f"accuracy of the surest {float(share):.0%}")
        for share in calibration["selective"]["accuracy_at"]
    ]
    return _of_calibration([*kept, *_SELECTIVE])


def with_entries(rows: Rows, sources: list[Source]) -> Rows:
    """Return the rows for which some file has an entry."""
    return [row for row in rows if any(one.look_up(row[0]) is not None for one in sources)]


def _of_calibration(rows: Rows) -> Rows:
    return [(("calibration", *place), name) for place, name in rows]
