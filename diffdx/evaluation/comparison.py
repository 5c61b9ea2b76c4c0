"""Predictions folders of the same images against each other: which model is better, and is it luck?

`comparison.json`: the four metrics of each run; for each pair the differences A - B with 95%
intervals (the same resamples of patients for both, so that what is hard for both cancels),
McNemar's exact test of the decisions and DeLong's of the AUROCs; for a diffusion and a
discriminative run their fusion and what they disagree on (also as a CSV).
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffdx._files import write_json
from diffdx._notice import NOTICE
from diffdx.classification.predictions import write_csv
from diffdx.classification.rules import Decisions
from diffdx.evaluation.calibrated import bootstrap
from diffdx.evaluation.fusion import Fusion, equal_weights, fit_fusion
from diffdx.evaluation.matching import check_calib, matched
from diffdx.evaluation.predictions import StoredPredictions, is_blank
from diffdx.evaluation.summary import metric_functions, score
from diffdx.metrics import delong, mcnemar, patient_resamples

COMPARISON_FILE = "comparison.json"
DISAGREEMENTS_FILE = "disagreements.csv"
"""With a number before the suffix from the second pair on."""

Json = dict[str, Any]
_Resamples = Float[np.ndarray, "resamples n"]


def compare_predictions(
    folders: Sequence[Path],
    out: Path,
    *,
    calib: Sequence[Path] = (),
    n_resamples: int = 1000,
    seed: int = 0,
) -> Json:
    """Compare predictions of the same images; write `comparison.json` and the disagreements.

    Args:
        folders: Outputs of `diffdx classify`, two or more.
        out: Where to write.
        calib: Predictions of calib images by the same runs, in the same order: the fusion's weights
            are fitted to them. None fuses with equal weights.
        n_resamples: Bootstrap resamples of the patients.
        seed: Seed of the resamples.

    Returns:
        `{n, n_left_out, patients, classes, positive, runs, pairs, fusion, bootstrap, warnings}`.
        `runs`: by name, `{kind, rule, model_sha256}` and the metrics. `pairs`: `{a, b, agreement,
        differences, mcnemar: {only_a, only_b, p_value}, delong: {auroc_a, auroc_b, difference,
        standard_error, p_value}}`, `delong` being null without a positive class. `fusion`: `{a, b,
        weights, biases, fitted_on, disagreements: {n, a_right, b_right, fused_right, file}}`, the
        metrics and the differences to each reader.

    Raises:
        DataError: if images, labels or classes differ between folders, nothing is labelled in all
            of them, or the calib folders are of other models or of the same images.
        ConfigError: if some runs have a calib folder and others have none.
    """
    runs, left_out = matched(folders)
    names = _names(folders)
    resamples = patient_resamples(runs[0].patients, n_resamples=n_resamples, seed=seed)
    readers = matched(calib)[0] if calib else []
    check_calib(runs, readers)
    pairs = list(combinations(range(len(runs)), 2))
    scored = {
        name: {
            "folder": str(run.folder),
            "kind": run.kind,
            "rule": run.rule,
            "model_sha256": run.settings.get("model_sha256"),
            **score(run.labels, run.own, run.positive, resamples),
        }
        for name, run in zip(names, runs, strict=True)
    }
    fused: list[Json] = []
    for i, j in pairs:
        if runs[i].kind != runs[j].kind:
            fusion = (
                fit_fusion(readers[i], readers[j]) if readers else equal_weights(runs[i], runs[j])
            )
            number = f"-{len(fused) + 1}" if fused else ""
            file = out / DISAGREEMENTS_FILE.replace(".", f"{number}.")
            made = _fused(runs[i], runs[j], fusion, file, resamples)
            fused.append({"a": names[i], "b": names[j], **made})
    result = {
        "n": len(runs[0].table),
        "n_left_out": left_out,
        "patients": len(set(runs[0].patients)),
        "classes": runs[0].classes,
        "positive": runs[0].settings["positive"],
        "runs": scored,
        "pairs": [
            {"a": names[i], "b": names[j], **_compared(runs[i], runs[j], resamples)}
            for i, j in pairs
        ],
        "fusion": fused,
        "bootstrap": {"resamples": n_resamples, "seed": seed, "unit": "patient"},
        "research_use_only": NOTICE,
        "warnings": _warnings(runs, len(pairs), left_out, bool(fused) and not readers),
    }
    write_json(out / COMPARISON_FILE, result)
    return result


def _compared(a: StoredPredictions, b: StoredPredictions, resamples: _Resamples) -> Json:
    y, positive = a.labels, a.positive
    first, second = a.own, b.own
    ranked = None
    if positive is not None and min(int((y == positive).sum()), int((y != positive).sum())) >= 2:
        test = delong(y == positive, first.scores[:, positive], second.scores[:, positive])
        ranked = _finite(vars(test))
    return {
        "agreement": float((first.y_hat == second.y_hat).mean()),
        "differences": _differences(a, first, second, resamples),
        "mcnemar": vars(mcnemar(first.y_hat == y, second.y_hat == y)),
        "delong": ranked,
    }


def _differences(
    known: StoredPredictions, first: Decisions, second: Decisions, resamples: _Resamples
) -> Json:
    """The four metrics of the first less those of the second, each `{value, low, high}`."""
    of_first = metric_functions(known.labels, first, known.positive)
    of_second = metric_functions(known.labels, second, known.positive)

    def difference(name: str) -> Callable[..., float]:
        return lambda weights: of_first[name](weights=weights) - of_second[name](weights=weights)

    return {name: bootstrap(difference(name), resamples) for name in of_first}


def _fused(
    a: StoredPredictions,
    b: StoredPredictions,
    fusion: Fusion,
    file: Path,
    resamples: _Resamples,
) -> Json:
    """Score the fusion, and write the images on which its readers disagree."""
    y, first, second = a.labels, a.own, b.own
    both = fusion.decide(a, b)
    apart = first.y_hat != second.y_hat
    write_csv(_disagreements(a, b, both).loc[apart], file)
    return {
        "weights": {"a": fusion.weights[0], "b": fusion.weights[1]},
        "biases": dict(zip(a.classes, fusion.biases, strict=True)),
        "fitted_on": fusion.fitted_on,
        **score(y, both, a.positive, resamples),
        "better_than_a": _differences(a, both, first, resamples),
        "better_than_b": _differences(a, both, second, resamples),
        "disagreements": {
            "n": int(apart.sum()),
            "a_right": int((apart & (first.y_hat == y)).sum()),
            "b_right": int((apart & (second.y_hat == y)).sum()),
            "fused_right": int((apart & (both.y_hat == y)).sum()),
            "file": file.name,
        },
    }


def _disagreements(a: StoredPredictions, b: StoredPredictions, both: Decisions) -> pd.DataFrame:
    table = a.table[["image_id", "path", "label"]].astype("string")
    table["prediction_a"] = _names_of(a, a.own)
    table["prediction_b"] = _names_of(b, b.own)
    table["prediction_fused"] = _names_of(a, both)
    for k, name in enumerate(a.classes):
        table[f"share_a_{name}"] = a.shares[:, k]
        table[f"share_b_{name}"] = b.shares[:, k]
        table[f"score_fused_{name}"] = both.scores[:, k]
    return table


def _names_of(stored: StoredPredictions, decided: Decisions) -> "pd.Series[str]":
    names = np.array(stored.classes, dtype=object)[decided.y_hat]
    return pd.Series(names, index=stored.table.index, dtype="string")


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its last part, or all of it where that is not unique."""
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _finite(values: Json) -> Json:
    return {name: None if value != value else value for name, value in values.items()}


def _warnings(
    runs: Sequence[StoredPredictions], comparisons: int, left_out: int, is_unfitted: bool
) -> list[str]:
    found = [text for run in runs for text in run.settings.get("warnings", [])]
    if left_out:
        found.append(f"{left_out} images failed in some folder or have no label; left out of all.")
    blank = sum(map(is_blank, runs[0].table["patient_id"]))
    if blank:
        found.append(
            f"{blank} images have no patient: each counts as one; intervals may be narrow."
        )
    if len(set(runs[0].patients)) < len(runs[0].table):
        found.append(
            "McNemar's and DeLong's tests take images as independent, and some patients have "
            "several: trust the intervals of the differences, which resample patients."
        )
    if comparisons > 1:
        found.append(f"P values are not corrected for {comparisons} comparisons.")
    if is_unfitted:
        found.append("The fusion trusts both readers alike; --calib fits it to calib images.")
    return list(dict.fromkeys(found))
