"""Which statistic of the stored errors decides best? No network, no training.

    python benchmarks/decision_statistics.py           choose on the calib role and altered copies
    python benchmarks/decision_statistics.py --test    and look at what was chosen on the test set

With d[n] = e[n, NORMAL] - e[n, PNEUMONIA] of an image's trials, in v space, and octiles of log-SNR:

    vote       mean of sign d
    mean       of d (v), of alpha^2 d (eps), of sigma^2 d (x)
    relative   mean of log(e[NORMAL] / e[PNEUMONIA])
    window     vote or mean v of the octiles i..j alone
    tanh       mean of tanh(d / s), s the octile's median |d| over the fitting images
    weighted   the linear rule of `diffdx calibrate`, fitted without and with altered copies

Each is judged by patients that neither weights nor threshold had seen (5 folds): AUROC, and
balanced accuracy at zero (`built_in`: a statistic that is positive calls the image sick) and at a
threshold fitted to the other patients' images and copies (`fitted`). Copies differ from their
images in brightness, contrast, frame and sharpness, so that they stand for another site, which the
calib role does not have. The choice: the largest mean of the fitted balanced accuracies of images
and copies. The test look has the vote and the weighted rule fitted with copies beside it. Writes
benchmarks/results/decision_statistics.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from log_look import log_with_commit

from diffdx._files import write_json
from diffdx._typing import Space
from diffdx.classification.voting import mean_error
from diffdx.classification.weighted import binned_differences, quantile_edges
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.metrics.bootstrap import bootstrap_by_patient, patient_resamples
from diffdx.metrics.decisions import balanced_accuracy
from diffdx.metrics.ranking import auroc
from diffdx.uncertainty.choice import fit_weights, patient_folds

ROOT = Path(__file__).parent.parent
STORE = ROOT / "assets" / "cxr64" / "errors"
RESULT = ROOT / "benchmarks" / "results" / "decision_statistics.json"
OCTILES = 8
SPACES: tuple[Space, ...] = ("v", "eps", "x")


@dataclass(frozen=True)
class Trials:
    """Errors of images under two classes; the second is the positive one."""

    errors: np.ndarray
    logsnr: np.ndarray
    sick: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, stored: StoredPredictions) -> "Trials":
        """Return the trials of a predictions folder."""
        order = [1 - int(stored.positive or 0), int(stored.positive or 0)]
        sick = stored.labels == stored.positive
        return cls(stored.errors[:, order], stored.logsnr, sick, np.asarray(stored.patients))

    def take(self, rows: np.ndarray) -> "Trials":
        """Return some of the images."""
        return Trials(self.errors[rows], self.logsnr[rows], self.sick[rows], self.patients[rows])

    def first(self, num_trials: int) -> "Trials":
        """Return the first trials of every image."""
        errors, logsnr = self.errors[:, :, :num_trials], self.logsnr[:, :num_trials]
        return Trials(errors, logsnr, self.sick, self.patients)

    def joined(self, other: "Trials") -> "Trials":
        """Return these images, then the others."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__annotations__)
        return Trials(*(np.concatenate(pair) for pair in pairs))

    @property
    def difference(self) -> np.ndarray:
        """By how much the sick class denoises better, (B, N)."""
        return self.errors[:, 0] - self.errors[:, 1]


Score = Callable[[Trials], np.ndarray]
Fit = Callable[[Trials, Trials], Score]
"""From fitting images and their altered copies to a statistic; most statistics ignore both."""


def edges_of(trials: Trials) -> np.ndarray:
    """Return the edges of the octiles of log-SNR."""
    return np.asarray(quantile_edges(trials.logsnr, OCTILES))


def bins(trials: Trials, edges: np.ndarray) -> np.ndarray:
    """Return the octile of each trial."""
    return np.searchsorted(edges, trials.logsnr, side="right")


def mean_lead(space: Space) -> Score:
    """Return by how much the sick class's mean error is the smaller one."""
    return lambda t: -np.diff(mean_error(t.errors, t.logsnr, space), axis=1)[:, 0]


def window(first: int, last: int, edges: np.ndarray, *, vote: bool) -> Score:
    """Return the vote's lead, or the mean difference, of the octiles first..last."""

    def score(trials: Trials) -> np.ndarray:
        octile = bins(trials, edges)
        inside = (octile >= first) & (octile <= last)
        d = np.sign(trials.difference) if vote else trials.difference
        return np.asarray((d * inside).sum(axis=1) / inside.sum(axis=1))

    return score


def squashed(fitting: Trials, edges: np.ndarray) -> Score:
    """Return the mean of tanh(d / s)."""
    octile, d = bins(fitting, edges), np.abs(fitting.difference)
    scale = np.array([np.median(d[octile == k]) for k in range(OCTILES)])
    return lambda trials: np.tanh(trials.difference / scale[bins(trials, edges)]).mean(axis=1)


def linear(fitting: Trials, edges: np.ndarray) -> Score:
    """Return the weighted rule, fitted to these images."""

    def binned(trials: Trials) -> np.ndarray:
        return np.asarray(binned_differences(trials.errors, trials.logsnr, edges))

    weights, biases = fit_weights(binned(fitting), fitting.sick.astype(int))
    return lambda trials: (binned(trials) @ weights + biases) @ np.array([-1.0, 1.0])


def statistics(edges: np.ndarray) -> dict[str, Fit]:
    """Return the candidates."""
    plain: dict[str, Score] = {
        "vote": lambda t: np.sign(t.difference).mean(axis=1),
        **{f"mean {space}": mean_lead(space) for space in SPACES},
        "relative": lambda t: np.log(t.errors[:, 0] / t.errors[:, 1]).mean(axis=1),
    }
    for first, last in combinations(range(OCTILES + 1), 2):
        if (first, last) != (0, OCTILES):
            for vote, name in ((True, "vote"), (False, "mean v")):
                plain[f"{name} {first}..{last - 1}"] = window(first, last - 1, edges, vote=vote)
    fits: dict[str, Fit] = {name: lambda _, __, s=score: s for name, score in plain.items()}
    fits["tanh"] = lambda images, _: squashed(images, edges)
    fits["weighted"] = lambda images, _: linear(images, edges)
    fits["weighted, copies"] = lambda images, copies: linear(images.joined(copies), edges)
    return fits


def ranked(sick: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the AUROC of a statistic."""
    both = np.stack([-score, score], axis=1)
    return auroc(sick.astype(int), both, positive=1, weights=weights)


def balanced(sick: np.ndarray, called: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the balanced accuracy."""
    return balanced_accuracy(sick.astype(int), called.astype(int), num_classes=2, weights=weights)


def best_threshold(score: np.ndarray, sick: np.ndarray) -> float:
    """Return the middle of the interval of thresholds of the largest balanced accuracy."""
    order = np.argsort(score)
    s, y = score[order], sick[order]
    # Called sick are those above the cut between i - 1 and i.
    recall = 1 - np.concatenate([[0], np.cumsum(y)]) / y.sum()
    specificity = np.concatenate([[0], np.cumsum(~y)]) / (~y).sum()
    cut = int(np.argmax(recall + specificity))
    return float(s[max(cut - 1, 0)] + s[min(cut, len(s) - 1)]) / 2


def rows_of(trials: Trials, patients: np.ndarray) -> np.ndarray:
    """Return the rows of these patients."""
    return np.flatnonzero(np.isin(trials.patients, patients))


def crossed(fit: Fit, images: Trials, copies: Trials, folds: list[Any]) -> dict[str, float]:
    """Return what a statistic is worth on images and copies of unseen patients."""
    parts: dict[str, list[Any]] = {"images": [], "copies": []}
    for train, held_out in folds:
        seen = np.unique(images.patients[train])
        mine, theirs = images.take(train), copies.take(rows_of(copies, seen))
        score = fit(mine, theirs)
        both = mine.joined(theirs)
        threshold = best_threshold(score(both), both.sick)
        others = np.unique(images.patients[held_out])
        judged = {"images": images.take(held_out), "copies": copies.take(rows_of(copies, others))}
        for name, trials in judged.items():
            values = score(trials)
            parts[name].append((values, values - threshold, trials.sick))
    made: dict[str, float] = {}
    for name, found in parts.items():
        values, above, sick = (np.concatenate(column) for column in zip(*found, strict=True))
        made[f"{name} auroc"] = ranked(sick, values)
        made[f"{name} built_in"] = balanced(sick, values > 0)
        made[f"{name} fitted"] = balanced(sick, above > 0)
    return {name: round(value, 4) for name, value in made.items()}


def looked_at(fit: Fit, images: Trials, copies: Trials, test: Trials) -> dict[str, Any]:
    """Return AUROC and balanced accuracy on the test set, fitted to all images and copies."""
    score, both = fit(images, copies), images.joined(copies)
    threshold = best_threshold(score(both), both.sick)
    values = score(test)

    resamples = patient_resamples(list(test.patients))
    metrics: dict[str, Callable[[np.ndarray], float]] = {
        "auroc": lambda w: ranked(test.sick, values, w),
        "built_in": lambda w: balanced(test.sick, values > 0, w),
        "fitted": lambda w: balanced(test.sick, values > threshold, w),
    }
    return {
        name: asdict(bootstrap_by_patient(metric, resamples)) for name, metric in metrics.items()
    }


def main() -> None:
    """Compare, choose, and look once where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--why", default="decision_statistics.py: the chosen statistic")
    asked = parser.parse_args()
    images, copies = (Trials.of(read_predictions(STORE / n)) for n in ("calib", "calib-altered"))
    trials = min(images.errors.shape[2], copies.errors.shape[2])
    images, copies = images.first(trials), copies.first(trials)
    edges = edges_of(images)
    folds = patient_folds(images.sick.astype(int), images.patients, seed=0)
    candidates = statistics(edges)
    table = {}
    for name, fit in candidates.items():
        table[name] = crossed(fit, images, copies, folds)
        print(f"{name:18s}", *(f"{value:.3f}" for value in table[name].values()), flush=True)
    chosen = max(table, key=lambda n: table[n]["images fitted"] + table[n]["copies fitted"])
    result = {
        "name": "decision_statistics",
        "images": len(images.sick),
        "copies": len(copies.sick),
        "trials": trials,
        "octile_edges": [round(float(edge), 3) for edge in edges],
        "statistics": table,
        "chosen": chosen,
    }
    print("chosen:", chosen)
    if asked.test:
        stored = read_predictions(STORE / "test")
        test = Trials.of(stored)
        result["test"] = {
            name: looked_at(candidates[name], images, copies, test)
            for name in dict.fromkeys(("vote", "weighted, copies", chosen))
        }
        print(result["test"])
    elif RESULT.is_file():
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))
        if earlier["chosen"] == chosen and "test" in earlier:
            # What the look showed is not lost by repeating the choice that led to it.
            result["test"] = earlier["test"]
    write_json(RESULT, result)
    if asked.test:
        summary = {**stored.settings, "n": len(test.sick), "by_rule": result["test"]}
        log_with_commit(asked.why, summary)


if __name__ == "__main__":
    main()
