"""Scores a predictions folder and writes `summary.json`: the numbers that every report quotes.

Only `errors.parquet` decides: each rule is recomputed from it, so the rules are compared on the
same trials and no network is called. Intervals are 95% percentile bootstraps by patient, with the
same resamples for all rules.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffdx._files import write_json
from diffdx._typing import Labels
from diffdx.classification.rules import RULES, Decisions, apply_rule
from diffdx.classification.voting import count_tied_trials
from diffdx.errors import DataError
from diffdx.evaluation.predictions import SETTINGS, StoredPredictions, read_predictions
from diffdx.metrics import (
    Interval,
    accuracy,
    auroc,
    balanced_accuracy,
    bootstrap_by_patient,
    class_recalls,
    confusion_matrix,
    f1,
    patient_resamples,
)

RESEARCH_USE_ONLY = "Research use only. Not a medical device."
METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc")
_COST = ("seconds", "images_per_second", "device", "precision", "model_sha256")

Json = dict[str, Any]
_Resamples = Float[np.ndarray, "resamples n"]


def evaluate_predictions(folder: Path, *, n_resamples: int = 1000, seed: int = 0) -> Json:
    """Return the scores of a predictions folder, and write them to its `summary.json`.

    Args:
        folder: Output of `diffdx classify`.
        n_resamples: Bootstrap resamples of the patients.
        seed: Seed of the resamples.

    Returns:
        The content of `summary.json`: counts, settings, the four metrics of the run's own rule at
        the top level and of all rules under `by_rule`, each `{value, low, high}`. `n` counts all
        images; the metrics those classified and labelled (`n - n_failed - n_unlabelled`). A number
        that does not exist is null, `warnings` says why.

    Raises:
        DataError: if the folder's files are missing or contradict each other, or if its rule cannot
            be recomputed from the errors alone.
    """
    stored = read_predictions(folder)
    if stored.rule not in RULES:
        raise DataError(
            f"{folder}/classify.json: rule {stored.rule!r} cannot be recomputed from errors; "
            f"classify with one of {', '.join(RULES)}"
        )
    known = stored.labelled()
    by_rule, own = _score_rules(known, n_resamples, seed)
    summary = {
        **_counts(stored, known),
        **{key: stored.settings[key] for key in SETTINGS},
        **by_rule[stored.rule],
        **own,
        "by_rule": by_rule,
        "nfe": _evaluations(stored),
        **{key: stored.settings.get(key) for key in _COST},
        "bootstrap": {"resamples": n_resamples, "seed": seed, "unit": "patient"},
        "research_use_only": RESEARCH_USE_ONLY,
        "warnings": [*stored.settings.get("warnings", []), *_warnings(stored, known)],
    }
    write_json(folder / "summary.json", summary)
    return summary


def _counts(stored: StoredPredictions, known: StoredPredictions) -> Json:
    classified = len(stored.table)
    any_classified = classified > 0
    return {
        "n": classified + stored.n_failed,
        "n_failed": stored.n_failed,
        "n_unlabelled": classified - len(known.table),
        "n_ties": int(_decide(stored, stored.rule).tied.sum()) if any_classified else 0,
        "n_tied_trials": int(count_tied_trials(stored.errors).sum()) if any_classified else 0,
    }


def _decide(stored: StoredPredictions, rule: str) -> Decisions:
    return apply_rule(rule, stored.errors, stored.logsnr, ties=stored.settings["ties"])


def _score_rules(known: StoredPredictions, n_resamples: int, seed: int) -> tuple[Json, Json]:
    """The four metrics of each rule, and the confusion table and recalls of the run's own."""
    if known.table.empty:
        nothing = dict.fromkeys(METRICS)
        return {rule: dict(nothing) for rule in RULES}, {"recall": None, "confusion": None}
    resamples = patient_resamples(_patients(known), n_resamples=n_resamples, seed=seed)
    decided = {rule: _decide(known, rule) for rule in RULES}
    y, classes = known.labels, known.classes
    by_rule = {rule: _score(y, decided[rule], known.positive, resamples) for rule in RULES}
    y_hat = decided[known.rule].y_hat
    recalls = [
        _bootstrap(partial(_recall, y, y_hat, len(classes), k), resamples)
        for k in range(len(classes))
    ]
    counts = confusion_matrix(y, y_hat, num_classes=len(classes)).astype(int)
    confusion = {
        name: dict(zip(classes, row.tolist(), strict=True))
        for name, row in zip(classes, counts, strict=True)
    }
    return by_rule, {"recall": dict(zip(classes, recalls, strict=True)), "confusion": confusion}


def _score(y: Labels, decisions: Decisions, positive: int | None, resamples: _Resamples) -> Json:
    y_hat, num_classes = decisions.y_hat, decisions.scores.shape[1]
    metrics: dict[str, Callable[..., float]] = {
        "accuracy": partial(accuracy, y, y_hat),
        "balanced_accuracy": partial(balanced_accuracy, y, y_hat, num_classes=num_classes),
        "f1": partial(f1, y, y_hat, num_classes=num_classes, positive=positive),
        "auroc": partial(auroc, y, decisions.scores, positive=positive),
    }
    return {name: _bootstrap(metric, resamples) for name, metric in metrics.items()}


def _recall(
    y: Labels, y_hat: Labels, num_classes: int, k: int, *, weights: Float[np.ndarray, "n"]
) -> float:
    return float(class_recalls(y, y_hat, num_classes=num_classes, weights=weights)[k])


def _bootstrap(metric: Callable[..., float], resamples: _Resamples) -> Json | None:
    interval = bootstrap_by_patient(lambda weights: metric(weights=weights), resamples)
    return None if math.isnan(interval.value) else _as_json(interval)


def _as_json(interval: Interval) -> Json:
    bounds = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in bounds.items()}


def _patients(stored: StoredPredictions) -> list[str]:
    """The patient of each image; an image whose patient is unknown stands for itself."""
    rows = zip(stored.table["patient_id"], stored.table["image_id"], strict=True)
    return [
        f"image {image}" if _is_blank(patient) else f"patient {patient}" for patient, image in rows
    ]


def _is_blank(entry: str | float | None) -> bool:
    return bool(pd.isna(entry)) or entry == ""


def _evaluations(stored: StoredPredictions) -> Json:
    """Network evaluations per image: those spent, and those of all trials under all classes."""
    full = len(stored.classes) * int(stored.settings["trials"])
    if stored.table.empty:
        return {"mean": None, "median": None, "p95": None, "full": full}
    nfe = stored.table["nfe"].to_numpy(dtype=float)
    return {
        "mean": nfe.mean(),
        "median": float(np.median(nfe)),
        "p95": float(np.quantile(nfe, 0.95)),
        "full": full,
    }


def _warnings(stored: StoredPredictions, known: StoredPredictions) -> list[str]:
    found = []
    absent = [name for k, name in enumerate(known.classes) if not (known.labels == k).any()]
    if known.table.empty:
        found.append("No classified image has a label, so there are no metrics.")
    elif absent:
        names = ", ".join(absent)
        found.append(f"No image of class {names}: metrics that need every class are null.")
    blank = sum(map(_is_blank, known.table["patient_id"]))
    if blank:
        found.append(
            f"{blank} images have no patient: each counts as one; intervals may be narrow."
        )
    if not stored.table.empty:
        names_now = np.array(stored.classes, dtype=object)[_decide(stored, stored.rule).y_hat]
        changed = int((names_now != stored.table["prediction"].to_numpy(dtype=object)).sum())
        if changed:
            found.append(
                f"{changed} decisions from errors.parquet differ from predictions.parquet."
            )
    return found
