"""How far can the probabilities be believed: at home, at another prevalence, at another site?

    python benchmarks/calibration.py                    halves of the calib role, no network
    python benchmarks/calibration.py --shifts FOLDER    also simulated sites (made there if absent)
    python benchmarks/calibration.py --test             also the test set, once (see log_look.py)

`halves`: the patients of the calib role are divided at random; one half calibrates, the other is
judged, as it is and with images left out until another share of them is positive. `sites`: calib
X-rays whose brightness, contrast, frame or sharpness was changed, two classes evenly, judged by a
calibration on the other patients with as many trials. `test`: all calib images calibrate; another
site with another prevalence. Each is judged without any correction (`calib`), with the shares
estimated without labels (`em`), and, where it was chosen, with the true share (`given`). `altered`
stands before figures of a calibration that was also fitted to altered copies of the calibrating
patients' images (`calibrate --altered`; the copies have all four kinds of change at once, the
simulated sites one kind each).

Writes benchmarks/results/calibration.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from diffdx._files import write_json
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.classification.weighted import quantile_edges
from diffdx.data.images import read_image
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.uncertainty.calibration import Calibration
from diffdx.uncertainty.calibrators import METHODS, fit_calibrator
from diffdx.uncertainty.choice import (
    STATISTICS,
    FittedModel,
    LinearWeights,
    fit_weights,
    training_scores,
)
from diffdx.uncertainty.conformal import set_coverage
from diffdx.uncertainty.deployment import find_deployment
from diffdx.uncertainty.entropy import vote_entropy
from diffdx.uncertainty.fit import BINS, CalibrationImages, fit_calibration
from diffdx.uncertainty.prevalence import correct_prevalence, estimate_prevalence
from diffdx.uncertainty.reliability import log_loss, reliability_summary
from diffdx.uncertainty.selective import selective_summary
from diffdx.uncertainty.triage import triage_summary

Json = dict[str, Any]
ROOT = Path(__file__).parent.parent
RUN = ROOT / "assets" / "cxr64"
RESULT = ROOT / "benchmarks" / "results" / "calibration.json"
CORRECTIONS = ("calib", "em")
POSITIVE_SHARES = (0.25, 0.5)
TEST_SHARE = 0.625
"""Pneumonia in the publishers' test set, by their own description."""
SHOWN = ("ece", "ece_floor", "brier", "accuracy", "estimated_share")


def gamma(pixels: np.ndarray, power: float) -> np.ndarray:
    """Return an 8-bit image made brighter (power < 1) or darker."""
    return (255 * (pixels / 255) ** power).astype(np.uint8)


def cropped(pixels: np.ndarray) -> np.ndarray:
    """Return an image with 6% less on each side."""
    height, width = (int(side * 0.06) for side in pixels.shape)
    return pixels[height : pixels.shape[0] - height, width : pixels.shape[1] - width]


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Return an image as sharp as 0.6 pixels of a 64-pixel one."""
    return gaussian_filter(pixels.astype(float), max(pixels.shape) / 64 * 0.6).astype(np.uint8)


SITES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bright": lambda pixels: gamma(pixels, 0.7),
    "dark": lambda pixels: gamma(pixels, 1.5),
    "low_contrast": lambda pixels: (pixels * 0.7 + 30).astype(np.uint8),
    "cropped": cropped,
    "blurred": blurred,
}


def images_of(stored: StoredPredictions, rows: np.ndarray, trials: int | None) -> CalibrationImages:
    """Return some rows of a predictions folder, with their first trials."""
    return CalibrationImages(
        stored.errors[rows][:, :, :trials],
        stored.logsnr[rows][:, :trials],
        stored.labels[rows],
        [stored.patients[row] for row in rows],
        tuple(stored.classes),
        stored.settings["positive"],
    )


def judged(entry: Calibration, images: CalibrationImages) -> Json:
    """Return what probabilities, sets and triage of an entry are worth on labelled images."""
    y, own = images.labels, entry.probability.probabilities(images.errors, images.logsnr)
    found, _ = find_deployment(entry, own)
    prob = found.correct(own, entry.prior)
    positive = images.classes.index(str(images.positive))
    y_hat = prob.argmax(axis=1)
    share = vote_share(majority_vote(images.errors, ties=images.ties))
    decided = entry.triage.decide(share, refer=entry.gate.flags(images.errors, images.logsnr))
    return {
        "n": len(y),
        "positive_share": float((y == positive).mean()),
        "estimated_share": found.shares[str(images.positive)],
        **reliability_summary(prob, y, positive),
        "accuracy": float((y_hat == y).mean()),
        "coverage": set_coverage(entry.conformal.sets(share), y, images.classes),
        "triage": triage_summary(decided, y, y_hat, positive=positive),
        "selective": selective_summary(y_hat == y, 1 - prob.max(axis=1)),
        "selective_by_vote": selective_summary(share.argmax(axis=1) == y, vote_entropy(share)),
    }


def fits(
    calib: CalibrationImages, copies: StoredPredictions, seed: int = 0
) -> dict[str, Calibration]:
    """Return calibrations on these images, without and with the copies of their patients."""
    theirs = np.isin(np.asarray(copies.patients), np.unique(np.asarray(calib.patients)))
    both = {"": None, "altered ": images_of(copies, np.flatnonzero(theirs), calib.errors.shape[2])}
    return {
        name: fit_calibration(calib, altered, stop="none", seed=seed)
        for name, altered in both.items()
    }


def by_correction(
    entries: dict[str, Calibration], images: CalibrationImages, *given: float
) -> Json:
    """Return `judged` under each correction, and under a given positive share."""
    made: Json = {}
    for fit, entry in entries.items():
        for name in CORRECTIONS:
            made[fit + name] = judged(replace(entry, prevalence=name), images)
        for share in given:
            shares = {k: share if k == images.positive else 1 - share for k in images.classes}
            made[f"{fit}given"] = judged(replace(entry, prevalence=shares), images)
    return made


def by_candidate(calib: CalibrationImages, images: CalibrationImages, share: float) -> list[Json]:
    """Return ECE, log loss and accuracy of every statistic and calibrator that could be chosen.

    Each as it is (`calib`), with the shares estimated without labels (`em`), and with the true
    share of positives (`given`).
    """
    edges = quantile_edges(calib.logsnr, BINS)
    features, there = calib.features(edges), images.features(edges)
    positive = images.classes.index(str(images.positive))
    prior = np.bincount(calib.labels) / len(calib.labels)
    given = np.where(np.arange(2) == positive, share, 1 - share)
    rows = []
    for statistic, method in product(STATISTICS, METHODS):
        scores = training_scores(features, statistic, 0)
        linear = LinearWeights(*fit_weights(features.binned, features.labels))
        calibrator = fit_calibrator(method, scores, features.labels)
        prob = FittedModel(statistic, calibrator, linear, []).probabilities(there)
        for name, shares in (
            ("calib", prior),
            ("em", estimate_prevalence(prob, prior)),
            ("given", given),
        ):
            moved = correct_prevalence(prob, prior, shares)
            row = {"statistic": statistic, "method": method, "prevalence": name}
            figures = {
                "ece": reliability_summary(moved, images.labels, positive)["ece"],
                "log_loss": float(log_loss(moved, images.labels)),
                "accuracy": float((moved.argmax(axis=1) == images.labels).mean()),
            }
            rows.append(row | {key: round(value, 4) for key, value in figures.items()})
    return rows


def halves(stored: StoredPredictions, copies: StoredPredictions, splits: int) -> Json:
    """Return the figures of held-out halves, means over the splits, for each positive share."""
    patients, y = np.asarray(stored.patients), stored.labels
    results: dict[str, list[Json]] = {str(share): [] for share in ("as is", *POSITIVE_SHARES)}
    for seed in range(splits):
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(patients))
        first = np.isin(patients, names[: len(names) // 2])
        images = images_of(stored, np.flatnonzero(first), None)
        entries = fits(images, copies, seed)
        negatives, positives = (np.flatnonzero(~first & (y == k)) for k in (0, 1))
        everyone = np.flatnonzero(~first)
        results["as is"].append(by_correction(entries, images_of(stored, everyone, None)))
        for share in POSITIVE_SHARES:
            kept = rng.permutation(positives)[: int(len(negatives) * share / (1 - share))]
            rows = np.append(negatives, kept)
            found = by_correction(entries, images_of(stored, rows, None), share)
            results[str(share)].append(found)
    return {share: mean_of(found) for share, found in results.items()}


def mean_of(many: list[Any]) -> Any:
    """Return the mean of equally shaped results, entry by entry; null if one of them is."""
    if isinstance(many[0], dict):
        return {name: mean_of([one[name] for one in many]) for name in many[0]}
    return None if None in many else float(np.mean(many))


def sites(
    stored: StoredPredictions,
    copies: StoredPredictions,
    folder: Path,
    trials: int,
    per_class: int,
) -> Json:
    """Return the figures of simulated sites; their errors are kept in `folder`."""
    chosen = stored.table.groupby("label").sample(per_class, random_state=0)
    rows = chosen.index.to_numpy()
    patients = np.asarray(stored.patients)
    others = np.flatnonzero(~np.isin(patients, patients[rows]))
    entries = fits(images_of(stored, others, trials), copies)
    here = images_of(stored, rows, trials)
    results = {"unchanged": by_correction(entries, here, 0.5)}
    for name, change in SITES.items():
        path = folder / f"{name}.npz"
        if not path.is_file():
            compute(path, [change(grey(read_image(p))) for p in chosen["path"]], trials)
        with np.load(path) as made:
            moved = replace(here, errors=made["errors"], logsnr=made["logsnr"])
        results[name] = by_correction(entries, moved, 0.5)
    return results


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the one channel that X-rays stored in colour repeat."""
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def compute(path: Path, images: list[np.ndarray], trials: int) -> None:
    """Store the reference run's errors of images."""
    from diffdx.classifier import DiffusionClassifier

    errors, logsnr = DiffusionClassifier.from_pretrained(RUN, num_trials=trials).errors(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, errors=errors, logsnr=logsnr)


def show(title: str, results: Json) -> None:
    """Print ECE (with its floor), Brier score, accuracy and estimated share of each correction."""
    print(title)
    for name, found in results.items():
        for correction, values in found.items():
            figures = "  ".join(f"{key} {values[key]:.3f}" for key in SHOWN)
            print(f"  {name:<13}{correction:<15}{figures}")


def main() -> None:
    """Judge the calibration and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=5, help="random halves of the calib role")
    parser.add_argument("--shifts", type=Path, help="folder of the simulated sites' errors")
    parser.add_argument("--trials", type=int, default=51, help="trials of the simulated sites")
    parser.add_argument("--per-class", type=int, default=70, help="X-rays of a class there")
    parser.add_argument("--test", action="store_true", help="look at the test set")
    options = parser.parse_args()
    calib = read_predictions(RUN / "errors" / "calib").labelled()
    results: Json = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    copies = read_predictions(RUN / "errors" / "calib-altered").labelled()
    results |= {"name": "calibration", "halves": halves(calib, copies, options.splits)}
    show("held-out halves of the calib role, by positive share", results["halves"])
    if options.shifts:
        found = sites(calib, copies, options.shifts, options.trials, options.per_class)
        results["sites"] = found
        show("simulated sites", found)
    if options.test:
        test = read_predictions(RUN / "errors" / "test").labelled()
        everyone = images_of(calib, np.arange(len(calib.labels)), None)
        there = images_of(test, np.arange(len(test.labels)), None)
        results["test"] = by_correction(fits(everyone, copies), there, TEST_SHARE)
        show("test", {"test": results["test"]})
        results["test_candidates"] = by_candidate(everyone, there, TEST_SHARE)
        for row in results["test_candidates"]:
            print("  ", *row.values())
    write_json(RESULT, results)


if __name__ == "__main__":
    main()
