"""The tables of the page, from `summary.json` alone.

Each number carries its place in that file (`data-key`, a JSON list), so that it can be traced.
Text is escaped, since class names come from folders and tables.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from diffdx.classification.rules import rule_name
from diffdx.evaluation.predictions import BASELINE
from diffdx.evaluation.summary import METRICS

Json = dict[str, Any]
Place = tuple[str | int, ...]
"""Keys that lead to an entry of the summary."""

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "auroc": "AUROC",
}
_RUN_ROWS: dict[Place, str] = {
    ("n",): "images",
    ("n_failed",): "without a prediction",
    ("n_unlabelled",): "without a label",
    ("classes",): "classes",
    ("positive",): "positive class",
    ("rule",): "rule",
    ("space",): "space of the errors",
    ("trials",): "trials per image",
    ("bank",): "bank",
    ("stop",): "early stopping",
    ("seed",): "seed",
    ("ties",): "tied trials",
    ("n_ties",): "tied decisions",
    ("nfe", "mean"): "network evaluations per image, mean",
    ("nfe", "full"): "network evaluations per image without stopping",
    ("seconds",): "seconds",
    ("images_per_second",): "images per second",
    ("device",): "device",
    ("precision",): "precision",
    ("model_sha256",): "model (SHA-256)",
}
_CALIBRATION_ROWS: dict[Place, str] = {
    ("method",): "calibrator",
    ("statistic",): "of the statistic",
    ("prevalence", "source"): "prevalence",
    ("ece",): "calibration error (ECE)",
    ("ece_uncorrected",): "ECE before the prevalence correction",
    ("ece_floor",): "ECE that perfect probabilities would show on so few images",
    ("brier",): "Brier score",
    ("log_loss",): "log loss (nats)",
    ("selective", "auroc_error"): "AUROC of the uncertainty against error",
    ("selective", "aurc"): "area under the risk-coverage curve",
    ("alpha",): "conformal sets: share of misses allowed",
    ("coverage", "marginal"): "conformal sets: share that holds the truth",
    ("coverage", "empty"): "conformal sets: empty, to be referred",
    ("coverage", "single"): "conformal sets: of one class",
    ("triage", "answered"): "triage: share answered",
    ("triage", "ppv"): "triage: right among those ruled in",
    ("triage", "npv"): "triage: right among those ruled out",
    ("triage", "accuracy"): "triage: right among those answered",
    ("ood", "flagged"): "flagged as out of distribution",
}


def headline(summary: Json) -> str:
    """Return the four metrics of the run's own rule, large, and all warnings."""
    cards = []
    for metric in METRICS:
        value, bounds = _interval(summary, (metric,))
        shown = f'<b>{value}</b> <span class="soft">{bounds}</span>'
        cards.append(f'<div class="card">{METRIC_NAMES[metric]} {shown}</div>')
    warnings = "".join(f"<li>{escape(str(text))}</li>" for text in summary["warnings"])
    section = f"<h2>Warnings</h2><ul>{warnings}</ul>" if warnings else ""
    return f'<div class="cards">{"".join(cards)}</div>{section}'


def run_table(summary: Json) -> str:
    """Return what was run: settings, counts, cost."""
    is_baseline = summary.get("kind") == BASELINE
    rows = [
        f"{_head([name])}{_cell(entry(summary, at))}"
        for at, name in _RUN_ROWS.items()
        # A baseline has no trials, so nothing to say of them.
        if not (is_baseline and look_up(summary, at) is None)
    ]
    return f"<h2>What was run</h2>{_table([], rows)}"


def rule_table(summary: Json) -> str:
    """Return the four metrics of every rule, the run's own in bold; empty for a baseline."""
    if not summary["by_rule"]:
        return ""
    own = rule_name(summary["rule"], summary["space"])
    rows = []
    for rule in summary["by_rule"]:
        places = [("by_rule", rule, metric) for metric in METRICS]
        cells = "".join(_cell(" ".join(_interval(summary, place))) for place in places)
        name = f"<strong>{escape(rule)}</strong>" if rule == own else escape(rule)
        rows.append(f"<th>{name}</th>{cells}")
    return (
        "<h2>All rules, from the same stored errors</h2>"
        "<p>The vote is the same in v, eps and x space; the mean is not. Bold: this run's rule.</p>"
        + _table(["rule", *METRIC_NAMES.values()], rows)
    )


def confusion_table(summary: Json) -> str:
    """Return counts of labels against predictions, with recalls; empty without labels."""
    if summary["confusion"] is None:
        return ""
    classes, rows = summary["classes"], []
    for label in classes:
        cells = [entry(summary, ("confusion", label, chosen)) for chosen in classes]
        cells.append(" ".join(_interval(summary, ("recall", label))))
        rows.append(_head([label]) + "".join(map(_cell, cells)))
    head = ["label", *(f"predicted {name}" for name in classes), "recall"]
    return f"<h2>Right and wrong by class</h2>{_table(head, rows)}"


def calibration_table(summary: Json) -> str:
    """Return what probabilities, sets, triage and gate are worth; empty if there are none."""
    found = summary.get("calibration")
    if found is None:
        return ""
    rows = {("calibration", *place): name for place, name in _CALIBRATION_ROWS.items()}
    for label in found["coverage"]["per_class"]:
        name = f"conformal sets: share that holds the truth, label {label}"
        rows["calibration", "coverage", "per_class", label] = name
    for kept in found["selective"]["accuracy_at"]:
        rows["calibration", "selective", "accuracy_at", kept] = (
            f"accuracy of the surest {float(kept):.0%}"
        )
    for answer in found["triage"]["n"]:
        rows["calibration", "triage", "n", answer] = f"triage: images, {answer}"
    order = [place[0] for place in _CALIBRATION_ROWS]
    together = sorted(rows.items(), key=lambda row: order.index(row[0][1]))
    return (
        "<h2>Probabilities, sets and triage</h2>"
        "<p>The guarantees assume images exchangeable with the calibration images; on any others "
        "the figures are measured, not promised. Refer whatever is flagged.</p>"
        + _table([], [_head([name]) + _cell(_measured(summary, at)) for at, name in together])
    )


def _measured(summary: Json, place: Place) -> str:
    """A number, or a value with its bounds; a dash where it does not exist."""
    found = look_up(summary, place)
    if found is None or isinstance(found, dict):
        return " ".join(_interval(summary, place))
    return entry(summary, place, ".3f")


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    top = f"<thead><tr>{_head(head)}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}{body}</table></div>'


def _head(names: Sequence[str]) -> str:
    return "".join(f"<th>{escape(name)}</th>" for name in names)


def _cell(content: str) -> str:
    return f"<td>{content}</td>"


def _interval(summary: Json, place: Place) -> tuple[str, str]:
    """A metric's value and its bounds; a dash where it does not exist."""
    if look_up(summary, place) is None:
        return "&ndash;", ""
    low, high = (entry(summary, (*place, bound), ".3f") for bound in ("low", "high"))
    return entry(summary, (*place, "value"), ".3f"), f"({low} to {high})"


def entry(summary: Json, place: Place, form: str = ".4g", *, mark: str = "key") -> str:
    """Return one number or word of a result file, marked with its place there: data-MARK."""
    found = look_up(summary, place)
    if isinstance(found, float):
        text = format(found, form)
    elif isinstance(found, list):
        text = ", ".join(map(str, found))
    else:
        text = "not known" if found is None else str(found)
    return f'<span data-{mark}="{escape(json.dumps(place))}">{escape(text)}</span>'


def look_up(summary: Json, place: Place) -> Any:
    """Return what a result file holds at a place."""
    found: Any = summary
    for key in place:
        found = found[key]
    return found
