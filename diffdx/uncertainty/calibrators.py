"""Calibrators: from a score that knows no prevalence to the probability of each class.

A score z (B, K) is a logarithm of evidence: log vote shares, or the weighted statistic.

    temperature   softmax(a z_k + log prior_k)                   one number; prior = class shares
    platt         softmax(a z_k + b_k)                           (Platt 1999; K > 2: shared slope)
    beta          logit p = a log s - b log(1 - s) + c           s = softmax(z)   (Kull et al. 2017)
    isotonic      p = the best non-decreasing function of log s - log(1 - s)

with a, b >= 0. Beta and isotonic are fitted to one class against the rest: for two classes to the
second alone, for more to each, and then divided by their sum (Zadrozny and Elkan 2002).

An isotonic fit would say 0 or 1 for scores beyond the last image of the other class, which n
images cannot show. So half an image of either class is put at both ends of the scores: an end with
m images of one class gives the other 1 / (2 (m + 1)), the estimate of Krichevsky and Trofimov. The
other calibrators meet the same need by smoothed targets (`logit.smoothed_targets`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_softmax, logsumexp, softmax

from diffdx._typing import Labels
from diffdx.classification.weighted import Scores
from diffdx.uncertainty.logit import fit_logit, smoothed_targets

Probabilities = Float[np.ndarray, "B K"]
"""Rows sum to 1."""
Parameters = dict[str, Any]
_PairOfLogs = tuple[Float[np.ndarray, "B C"], Float[np.ndarray, "B C"]]
# exp(-30) is far below what any calibration set can show; an eliminated class has score -inf.
_LOWEST_LOG = -30.0


@dataclass(frozen=True)
class Calibrator:
    """A fitted calibrator."""

    method: str
    """One of `METHODS`."""
    parameters: Parameters
    """Numbers and lists of numbers, by name."""

    def probabilities(self, scores: Scores) -> Probabilities:
        """Return the probability of each class, at the prevalence of the calibration images.

        Args:
            scores: As the calibrator was fitted to; `-inf` = eliminated class.
        """
        probabilities: Probabilities = _APPLY[self.method](self.parameters, scores)
        return probabilities

    def as_dict(self) -> dict[str, Any]:
        """Return a value that JSON can hold."""
        return {"method": self.method, "parameters": self.parameters}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Calibrator":
        """Return what `as_dict` stored."""
        return cls(stored["method"], stored["parameters"])


def fit_calibrator(method: str, scores: Scores, labels: Labels) -> Calibrator:
    """Return the calibrator that fits the labels best.

    Args:
        method: One of `METHODS`.
        scores: Finite scores of labelled images, larger = more like the class.
        labels: Their classes; every class occurs.

    Raises:
        ValueError: if the method is unknown, or a class has no image: its probability could not be
            learnt.
    """
    if method not in METHODS:
        raise ValueError(f"calibrator {method!r} is none of {', '.join(METHODS)}")
    if (np.bincount(labels, minlength=scores.shape[1]) == 0).any():
        raise ValueError("a class has no image to calibrate with; add images of every class")
    return Calibrator(method, _FIT[method](scores, labels))


def _fit_temperature(scores: Scores, labels: Labels) -> Parameters:
    num_classes = scores.shape[1]
    prior = np.log(np.bincount(labels, minlength=num_classes) / len(labels))
    return _fit_linear(scores, labels, prior)


def _fit_linear(
    scores: Scores, labels: Labels, offsets: Float[np.ndarray, "K"] | None = None
) -> Parameters:
    targets = smoothed_targets(labels, scores.shape[1])
    slope, biases = fit_logit(scores[:, :, None], targets, offsets=offsets)
    return {"slope": float(slope[0]), "biases": biases.tolist()}


def _apply_linear(parameters: Parameters, scores: Scores) -> Probabilities:
    logits = parameters["slope"] * scores + np.array(parameters["biases"])
    eliminated = np.isneginf(scores)
    return np.asarray(softmax(np.where(eliminated, -np.inf, logits), axis=1))


def _fit_beta(scores: Scores, labels: Labels) -> Parameters:
    curves = []
    for log_s, log_rest, is_class in _one_against_rest(scores, labels):
        # Evidence for "this class" only; that for "the rest" is zero, so a and b stay apart.
        features = np.zeros((len(labels), 2, 2))
        features[:, 1] = np.stack([log_s, -log_rest], axis=1)
        targets = smoothed_targets(is_class.astype(np.int64), 2)
        (a, b), biases = fit_logit(features, targets)
        curves.append([float(a), float(b), float(biases[1] - biases[0])])
    return {"curves": curves}


def _apply_beta(parameters: Parameters, scores: Scores) -> Probabilities:
    log_s, log_rest = _log_odds_parts(scores)
    a, b, c = np.array(parameters["curves"]).T
    return _together(expit(a * log_s - b * log_rest + c))


def _fit_isotonic(scores: Scores, labels: Labels) -> Parameters:
    from sklearn.isotonic import IsotonicRegression

    knots, values = [], []
    for log_s, log_rest, is_class in _one_against_rest(scores, labels):
        odds = log_s - log_rest
        ends = np.repeat([odds.min(), odds.max()], 2)
        fit = IsotonicRegression().fit(
            np.append(odds, ends),
            np.append(is_class, [0, 1, 0, 1]),
            np.append(np.ones(len(odds)), np.full(4, 0.5)),
        )
        knots.append(fit.X_thresholds_.tolist())
        values.append(fit.y_thresholds_.tolist())
    return {"log_odds": knots, "probability": values}


def _apply_isotonic(parameters: Parameters, scores: Scores) -> Probabilities:
    log_s, log_rest = _log_odds_parts(scores)
    curves = zip(parameters["log_odds"], parameters["probability"], strict=True)
    odds = (log_s - log_rest).T
    found = [np.interp(x, knots, values) for x, (knots, values) in zip(odds, curves, strict=True)]
    return _together(np.stack(found, axis=1))


def _log_odds_parts(scores: Scores) -> _PairOfLogs:
    """Return log s and log(1 - s) of the second of two classes, or of each of several."""
    log_s = np.maximum(log_softmax(scores, axis=1), _LOWEST_LOG)
    num_classes = scores.shape[1]
    if num_classes == 2:
        return log_s[:, 1:], log_s[:, :1]
    rest = [
        logsumexp(np.delete(log_s, k, axis=1), axis=1, keepdims=True) for k in range(num_classes)
    ]
    return log_s, np.concatenate(rest, axis=1)


def _one_against_rest(
    scores: Scores, labels: Labels
) -> list[tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"], np.ndarray]]:
    log_s, log_rest = _log_odds_parts(scores)
    first = scores.shape[1] - log_s.shape[1]
    columns = range(log_s.shape[1])
    return [(log_s[:, c], log_rest[:, c], labels == first + c) for c in columns]


def _together(curves: Float[np.ndarray, "B C"]) -> Probabilities:
    """Return one distribution from the class-against-rest probabilities."""
    if curves.shape[1] == 1:
        return np.concatenate([1 - curves, curves], axis=1)
    return np.asarray(curves / curves.sum(axis=1, keepdims=True))


_FIT: dict[str, Callable[[Scores, Labels], Parameters]] = {
    "temperature": _fit_temperature,
    "platt": _fit_linear,
    "beta": _fit_beta,
    "isotonic": _fit_isotonic,
}
_APPLY: dict[str, Callable[[Parameters, Scores], Probabilities]] = {
    "temperature": _apply_linear,
    "platt": _apply_linear,
    "beta": _apply_beta,
    "isotonic": _apply_isotonic,
}
METHODS = tuple(_FIT)
"""Calibrators by name, the one with fewest parameters first."""
