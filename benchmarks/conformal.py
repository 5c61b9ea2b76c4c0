"""Do conformal sets and triage keep their promises on held-out images?

    python benchmarks/conformal.py            20 splits of the calib role
    python benchmarks/conformal.py --test     also the shifted test set, once (log it: log_look.py)

Of every patient of the calib role one image is drawn; the patients are divided at random into a
half that calibrates and a half that is only judged, 20 times. Sets and triage read the vote share:
nothing about it is fitted to the calibration images, so that they and a new image stand alike. Sets
are randomised, so that their coverage should be 1 - alpha exactly; `z` is its distance from that in
standard errors over the splits. The test set comes from another site with another prevalence: there
the promises do not hold, and the figures say by how much.

Writes benchmarks/results/conformal.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffdx._files import write_json
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.uncertainty.conformal import ConformalSets, fit_conformal, set_coverage
from diffdx.uncertainty.exchangeable import one_per_patient
from diffdx.uncertainty.out_of_distribution import OutOfDistributionGate, fit_gate
from diffdx.uncertainty.triage import Triage, fit_triage, triage_summary

ROOT = Path(__file__).parent.parent
ERRORS = ROOT / "assets" / "cxr64" / "errors"
RESULT = ROOT / "benchmarks" / "results" / "conformal.json"
ALPHAS = (0.1, 0.02)
SPLITS = 20
TRIAGE = ("npv", "ppv", "answered")
LEVELS = {"npv": 0.95, "ppv": 0.98}

Fitted = tuple[ConformalSets, Triage, OutOfDistributionGate]


def main() -> None:
    """Judge all splits, and the test set if asked; write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true", help="look at the test set too")
    chosen = parser.parse_args()
    calib = read_predictions(ERRORS / "calib").labelled()
    result = {
        "name": "conformal",
        "images": len(calib.table),
        "patients": len(set(calib.patients)),
        "splits": held_out_splits(calib),
    }
    if chosen.test:
        known = read_predictions(ERRORS / "test").labelled()
        calibration = fitted(calib, np.arange(len(calib.table)))
        rows = np.arange(len(known.table))
        result["test"] = {
            "assumption": "exchangeable with calib, which another site and prevalence are not",
            **judged(calibration, known, rows, np.random.default_rng(0)),
        }
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))


def held_out_splits(calib: StoredPredictions) -> dict[str, Any]:
    """Return coverage, triage and flags over random halves of the patients."""
    found = []
    for split in range(SPLITS):
        rng = np.random.default_rng([split, 1])  # a stream of its own: seed `split` draws images
        rows = rng.permutation(one_per_patient(calib.patients, len(calib.table), seed=split))
        half = len(rows) // 2
        found.append(judged(fitted(calib, rows[:half]), calib, rows[half:], rng))
    sets = {
        name: {
            key: _against([one["sets"][name][key] for one in found], 1 - alpha)
            for key in found[0]["sets"][name]
            if key.startswith("coverage")
        }
        | {
            key: _mean([one["sets"][name][key] for one in found])
            for key in ("empty", "single", "mean_size")
        }
        for alpha in ALPHAS
        for name in _names(alpha)
    }
    triage = {key: _mean([one["triage"][key] for one in found]) for key in TRIAGE}
    # A split that gives an answer to nobody breaks no promise about it.
    reached = {
        f"splits_keeping_{key}": _mean(
            [one["triage"][key] is None or one["triage"][key] >= level for one in found]
        )
        for key, level in LEVELS.items()
    }
    flagged = _mean([one["flagged"] for one in found])
    return {"count": SPLITS, "sets": sets, "triage": triage | reached, "flagged": flagged}


def fitted(stored: StoredPredictions, rows: np.ndarray) -> Fitted:
    """Return sets, triage and gate calibrated on these rows."""
    patients = [stored.patients[row] for row in rows]
    prob, y = share(stored, rows), stored.labels[rows]
    gate = fit_gate(stored.errors[rows], stored.logsnr[rows], groups=patients)
    triage = fit_triage(prob, y, positive=stored.positive, groups=patients)
    return fit_conformal(prob, y, groups=patients), triage, gate


def share(stored: StoredPredictions, rows: np.ndarray) -> np.ndarray:
    """Return the vote shares of these rows."""
    return vote_share(majority_vote(stored.errors[rows], ties=stored.settings["ties"]))


def judged(
    calibration: Fitted, stored: StoredPredictions, rows: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Return how sets, triage and gate of a calibration do on other images."""
    conformal, triage, gate = calibration
    prob, y, u = share(stored, rows), stored.labels[rows], rng.random(len(rows))
    sets = {}
    for alpha in ALPHAS:
        for by_class, name in zip((True, False), _names(alpha), strict=True):
            made = replace(conformal, alpha=alpha, by_class=by_class)
            found = set_coverage(made.sets(prob, u), y, stored.classes)
            sets[name] = {
                "coverage": found["marginal"],
                **({f"coverage_{k}": v for k, v in found["per_class"].items()} if by_class else {}),
                **{key: found[key] for key in ("empty", "single", "mean_size")},
            }
    answers = triage_summary(triage.decide(prob), y, prob.argmax(axis=1), positive=triage.positive)
    return {
        "sets": sets,
        "triage": answers,
        "certified": {answer: vars(rule) for answer, rule in triage.rules.items()},
        "flagged": float(gate.flags(stored.errors[rows], stored.logsnr[rows]).mean()),
    }


def _names(alpha: float) -> tuple[str, str]:
    return f"alpha {alpha:g}, by class", f"alpha {alpha:g}, all classes together"


def _against(values: list[float], nominal: float) -> dict[str, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(np.mean(values))
    return {
        "nominal": nominal,
        "mean": mean,
        "standard_error": error,
        "z": (mean - nominal) / error,
    }


def _mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


if __name__ == "__main__":
    main()
