"""Which statistic and which calibrator: chosen by patients that the fit had not seen.

Folds hold whole patients. A calibrator is fitted to scores whose weights had not seen the image
(cross-fitting); a candidate is judged by its log loss on patients that neither weights nor
calibrator had seen; and the choice itself is judged on outer folds (nested cross-validation).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffdx._typing import Labels
from diffdx.classification.weighted import Edges, LogSNRWeights, Scores
from diffdx.uncertainty.calibrators import METHODS, Calibrator, Probabilities, fit_calibrator
from diffdx.uncertainty.logit import fit_logit
from diffdx.uncertainty.reliability import log_losses

FOLDS = 5
VOTE, WEIGHTED, SOFTMAX = "vote", "weighted", "softmax"
STATISTICS = (VOTE, WEIGHTED)
"""Of a diffusion model, to choose from; a baseline has its softmax."""
Rows = Int[np.ndarray, "..."]
_Losses = dict[tuple[str, str], np.ndarray]
"""Log loss of each image, by (method, statistic)."""
_RIDGE = 1e-3


@dataclass(frozen=True)
class Features:
    """What fitting reads of the images: it never touches the errors again."""

    ready: Scores
    """What needs no weights: log vote shares, or a baseline's log softmax."""
    binned: Float[np.ndarray, "B K M"]
    """Mean error differences of each bin of log-SNR; a baseline has no bins."""
    labels: Labels
    patients: np.ndarray

    def take(self, rows: Rows) -> "Features":
        """Return the features of some of the images."""
        return Features(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, others: "Features") -> "Features":
        """Return the features of these images, then those of the others."""
        return Features(
            *(
                np.concatenate([getattr(self, field.name), getattr(others, field.name)])
                for field in fields(self)
            )
        )

    def folds(self, seed: int) -> list[tuple[Rows, Rows]]:
        """Return (training rows, others) of each fold, as `patient_folds`."""
        return patient_folds(self.labels, self.patients, seed)


@dataclass(frozen=True)
class LinearWeights:
    """Weights and biases of the weighted statistic, its bins' edges left out."""

    weights: Float[np.ndarray, "M"]
    biases: Float[np.ndarray, "K"]

    def scores(self, binned: Float[np.ndarray, "B K M"]) -> Scores:
        """Return the weighted statistic."""
        return np.asarray(binned @ self.weights + self.biases)

    def between(self, edges: Edges) -> LogSNRWeights:
        """Return the weights of bins with these edges."""
        return LogSNRWeights(*(tuple(part.tolist()) for part in (edges, self.weights, self.biases)))


@dataclass(frozen=True)
class FittedModel:
    """A statistic with its weights and calibrator."""

    statistic: str
    calibrator: Calibrator
    linear: LinearWeights
    candidates: list[dict[str, Any]]
    """What it was chosen from, with log losses."""

    def probabilities(self, features: Features) -> Probabilities:
        """Return the probability of each class of each image."""
        weighted = self.statistic == WEIGHTED
        scores = self.linear.scores(features.binned) if weighted else features.ready
        return self.calibrator.probabilities(scores)


def patient_folds(labels: Labels, patients: np.ndarray, seed: int) -> list[tuple[Rows, Rows]]:
    """Return (training rows, others) of each of 5 folds; a patient is never in both.

    Patients are taken in random order, one class after the other (that of most of their images),
    and dealt to the folds in turn.

    Args:
        labels: True class of each image.
        patients: Patient of each image.
        seed: Of the order.
    """
    names, patient = np.unique(patients, return_inverse=True)
    images = np.zeros((len(names), labels.max() + 1))
    np.add.at(images, (patient, labels), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(images[order].argmax(axis=1), kind="stable")]
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % FOLDS
    others = [fold_of[patient] == fold for fold in range(FOLDS)]
    return [(np.flatnonzero(~held_out), np.flatnonzero(held_out)) for held_out in others]


def fit_weights(
    binned: Float[np.ndarray, "B K M"], labels: Labels
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "K"]]:
    """Return weights per unit of error and biases of the weighted statistic.

    Bins are divided by their spread, so that the ridge treats all alike, and classes count equally
    whatever their number of images, so that the statistic knows no prevalence.

    Args:
        binned: Mean error differences from `binned_differences`.
        labels: True classes.
    """
    spread = np.sqrt((binned**2).mean(axis=(0, 1)))
    spread = np.where(spread > 0, spread, 1.0)
    counts = np.bincount(labels, minlength=binned.shape[1])
    equal = len(labels) / (len(counts) * counts[labels])
    targets = np.eye(len(counts))[labels]
    weights, biases = fit_logit(binned / spread, targets, image_weights=equal, ridge=_RIDGE)
    return weights / spread, biases


def choose_model(features: Features, statistics: Sequence[str], seed: int) -> FittedModel:
    """Return the statistic and calibrator chosen by cross-validation, fitted to all images.

    Args:
        features: Of labelled images.
        statistics: To choose from; all but `weighted` mean the scores that are ready.
        seed: Seed of the folds.
    """
    losses = _cross_validated(features, statistics, seed)
    chosen = _simplest_of_the_best(losses, features.patients)
    method, statistic = chosen
    candidates = [
        {
            "statistic": candidate[1],
            "method": candidate[0],
            "log_loss": float(loss.mean()),
            "chosen": candidate == chosen,
        }
        for candidate, loss in losses.items()
    ]
    scores = training_scores(features, statistic, seed)
    calibrator = fit_calibrator(method, scores, features.labels)
    return FittedModel(statistic, calibrator, _linear(features), candidates)


def _cross_validated(features: Features, statistics: Sequence[str], seed: int) -> _Losses:
    """Return each image's log loss under each candidate fitted without its patient's fold."""
    losses = {pair: np.zeros(len(features.labels)) for pair in product(METHODS, statistics)}
    for rows, others in features.folds(seed):
        train, test = features.take(rows), features.take(others)
        linear = _linear(train)
        scores = {name: training_scores(train, name, seed) for name in statistics}
        for (method, statistic), loss in losses.items():
            calibrator = fit_calibrator(method, scores[statistic], train.labels)
            fitted = FittedModel(statistic, calibrator, linear, [])
            loss[others] = log_losses(fitted.probabilities(test), test.labels)
    return losses


def _simplest_of_the_best(losses: _Losses, patients: np.ndarray) -> tuple[str, str]:
    """Return the first candidate that is worse than the best by no more than one standard error.

    The error is that of the mean difference, images of a patient taken together. Candidates are in
    order of their parameters: what a few hundred images cannot tell apart is decided for the curve
    that bends less between them and beyond.
    """
    best = min(losses.values(), key=np.mean)
    _, patient = np.unique(patients, return_inverse=True)

    def is_as_good(loss: Float[np.ndarray, "B"]) -> bool:
        worse = loss - best
        by_patient = np.bincount(patient, weights=worse - worse.mean())
        return bool(worse.mean() <= np.sqrt((by_patient**2).sum()) / len(loss))

    return next(candidate for candidate, loss in losses.items() if is_as_good(loss))


def _linear(features: Features) -> LinearWeights:
    return LinearWeights(*fit_weights(features.binned, features.labels))


def training_scores(features: Features, statistic: str, seed: int) -> Scores:
    """Return the scores that a calibrator is fitted to: of weights that had not seen the image."""
    if statistic != WEIGHTED:
        return features.ready
    scores = np.zeros(features.ready.shape)
    for rows, others in features.folds(seed + 1):
        scores[others] = _linear(features.take(rows)).scores(features.binned[others])
    return scores


def cross_fitted(features: Features, statistics: Sequence[str], seed: int) -> Probabilities:
    """Return each image's probability from a fit, choice included, without its patient's fold.

    Args:
        features: Of labelled images.
        statistics: To choose from, as for `choose_model`.
        seed: Seed of the folds.
    """
    prob = np.zeros(features.ready.shape)
    for rows, others in features.folds(seed + 2):
        prob[others] = choose_model(features.take(rows), statistics, seed).probabilities(
            features.take(others)
        )
    return prob
