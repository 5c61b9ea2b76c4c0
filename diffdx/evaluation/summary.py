"""Scores a predictions folder and writes `summary.json`: the numbers that every report quotes.

Only `errors.parquet` decides: each rule is recomputed from it, so the rules are compared on the
same trials and no network is called. A baseline's predictions have one rule, the largest
softmax. The probabilities of a calibrated folder are scored as well.
Intervals are 95% percentile bootstraps by patient, with the same resamples for all rules.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffdx._files import write_json
from diffdx._notice import NOTICE
from diffdx._typing import Labels
from diffdx.classification.rules import Decisions
from diffdx.classification.voting import count_tied_trials
from diffdx.data.audit import audit_line
from diffdx.errors import DataError
from diffdx.evaluation.calibrated import EXCHANGEABLE, bootstrap, calibration_summary
from diffdx.evaluation.predictions import (
    DIFFUSION,
    SETTINGS,
    StoredPredictions,
    is_blank,
    read_predictions,
)
from diffdx.metrics import (
    accuracy,
    auroc,
    balanced_accuracy,
    class_recalls,
    confusion_matrix,
    f1,
    patient_resamples,
)

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
    if stored.kind == DIFFUSION and stored.rule not in stored.rules:
        raise DataError(
            f"{folder}/classify.json: rule {stored.rule!r} cannot be recomputed from errors; "
            f"classify with one of {', '.join(stored.rules)}"
        )
    known = stored.labelled()
    resamples = None
    if not known.table.empty:
        resamples = patient_resamples(known.patients, n_resamples=n_resamples, seed=seed)
    by_rule = _score_rules(known, resamples)
    summary = {
        **_counts(stored, known),
        "kind": stored.kind,
        **{key: stored.settings[key] for key in SETTINGS},
        **_score_own(known, resamples, by_rule),
        "by_rule": by_rule,
        "calibration": None if resamples is None else calibration_summary(known, resamples),
        "nfe": _evaluations(stored),
        **{key: stored.settings.get(key) for key in _COST},
        "bootstrap": {"resamples": n_resamples, "seed": seed, "unit": "patient"},
        "audit": audit_line(stored.settings.get("warnings", [])),
        "research_use_only": NOTICE,
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
        "n_ties": int(stored.own.tied.sum()) if any_classified else 0,
        "n_tied_trials": int(count_tied_trials(stored.errors).sum()) if any_classified else 0,
    }


def _score_rules(known: StoredPredictions, resamples: _Resamples | None) -> Json:
    """The four metrics of each rule; none for a baseline."""
    if resamples is None:
        return {rule: dict.fromkeys(METRICS) for rule in known.rules}
    return {
        rule: score(known.labels, known.decide(rule), known.positive, resamples)
        for rule in known.rules
    }


def _score_own(known: StoredPredictions, resamples: _Resamples | None, by_rule: Json) -> Json:
    """The four metrics, the confusion table and the recalls of the run's own rule."""
    if resamples is None:
        return dict.fromkeys((*METRICS, "recall", "confusion"))
    decided, y, classes = known.own, known.labels, known.classes
    y_hat = decided.y_hat
    recalls = [
        bootstrap(partial(recall, y, y_hat, len(classes), k), resamples)
        for k in range(len(classes))
    ]
    counts = confusion_matrix(y, y_hat, num_classes=len(classes)).astype(int)
    confusion = {
        name: dict(zip(classes, row.tolist(), strict=True))
        for name, row in zip(classes, counts, strict=True)
    }
    return {
        **(by_rule.get(known.rule) or score(y, decided, known.positive, resamples)),
        "recall": dict(zip(classes, recalls, strict=True)),
        "confusion": confusion,
    }


def score(y: Labels, decisions: Decisions, positive: int | None, resamples: _Resamples) -> Json:
    """Return the four metrics, each `{value, low, high}`."""
    metrics = metric_functions(y, decisions, positive)
    return {name: bootstrap(metric, resamples) for name, metric in metrics.items()}


def metric_functions(
    y: Labels, decisions: Decisions, positive: int | None
) -> dict[str, Callable[..., float]]:
    """Return the four metrics as functions of `weights`, as `bootstrap` takes them."""
    y_hat, num_classes = decisions.y_hat, decisions.scores.shape[1]
    return {
        "accuracy": partial(accuracy, y, y_hat),
        "balanced_accuracy": partial(balanced_accuracy, y, y_hat, num_classes=num_classes),
        "f1": partial(f1, y, y_hat, num_classes=num_classes, positive=positive),
        "auroc": partial(auroc, y, decisions.scores, positive=positive),
    }


def recall(
    y: Labels, y_hat: Labels, num_classes: int, k: int, *, weights: Float[np.ndarray, "n"]
) -> float:
    """Return the recall of class k, as `bootstrap` takes it."""
    return float(class_recalls(y, y_hat, num_classes=num_classes, weights=weights)[k])


def _evaluations(stored: StoredPredictions) -> Json:
    """Network evaluations per image: those spent, and those of all trials under all classes."""
    full = len(stored.classes) * int(stored.settings["trials"]) if stored.kind == DIFFUSION else 1
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
    found = [] if stored.calibration is None else [EXCHANGEABLE, *stored.calibration.warnings]
    absent = [name for k, name in enumerate(known.classes) if not (known.labels == k).any()]
    if known.table.empty:
        found.append("No classified image has a label, so there are no metrics.")
    elif absent:
        names = ", ".join(absent)
        found.append(f"No image of class {names}: metrics that need every class are null.")
    blank = sum(map(is_blank, known.table["patient_id"]))
    if blank:
        found.append(
            f"{blank} images have no patient: each counts as one; intervals may be narrow."
        )
    if not stored.table.empty:
        names_now = np.array(stored.classes, dtype=object)[stored.own.y_hat]
        changed = int((names_now != stored.table["prediction"].to_numpy(dtype=object)).sum())
        if changed:
            found.append(
                f"{changed} decisions from the stored scores differ from predictions.parquet."
            )
    return found
