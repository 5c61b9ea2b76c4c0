"""A diffusion model and a discriminative one as two readers: one score from both.

For each reader r, class k and image, the centred log score

    l_rk = log s_rk - mean_j log s_rj            (for two classes half the log odds)

with s the calibrated probability where there is one, else the vote share (votes + 1/2 of N + K/2,
so that it is finite) or the softmax; a mean or weighted rule's own score takes the place of log s.
Divided by its root mean square over the images, so that neither reader is the louder one, it keeps
its zero, where the reader is undecided. The fused score is

    f_k = w_1 l_1k + w_2 l_2k + c_k              weights 1/2 and c = 0, or fitted by maximum
                                                 likelihood of softmax(f) to calib images

and the class with the largest f_k is the fused decision.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import log_softmax

from diffdx.classification.rules import Decisions
from diffdx.classification.voting import majority_vote
from diffdx.evaluation.predictions import BASELINE, StoredPredictions

Logits = Float[np.ndarray, "B K"]

_RIDGE = 1e-3
"""Per image, on weights and biases: separable calib images would send them to infinity."""
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Fusion:
    """How two readers are joined.

    Attributes:
        scales: Root mean square of each reader's centred log score.
        weights: Of each reader.
        biases: Of each class; they sum to 0.
        fitted_on: Number of calib images; 0 where nothing was fitted.
    """

    scales: tuple[float, float]
    weights: tuple[float, float]
    biases: tuple[float, ...]
    fitted_on: int = 0

    def decide(self, first: StoredPredictions, second: StoredPredictions) -> Decisions:
        """Return the fused scores and decisions for the same images in both."""
        parts = (
            weight / scale * centred_log_scores(reader)
            for weight, scale, reader in zip(
                self.weights, self.scales, (first, second), strict=True
            )
        )
        fused: np.ndarray = sum(parts, np.array(self.biases))
        tied = (fused == fused.max(axis=1, keepdims=True)).sum(axis=1) > 1
        return Decisions(fused, fused.argmax(axis=1).astype(np.int64), tied)


def equal_weights(first: StoredPredictions, second: StoredPredictions) -> Fusion:
    """Return the fusion that trusts both readers alike; their labels are not used."""
    biases = (0.0,) * len(first.classes)
    return Fusion((_scale(first), _scale(second)), (0.5, 0.5), biases)


def fit_fusion(first: StoredPredictions, second: StoredPredictions) -> Fusion:
    """Return the fusion fitted to labelled calib images, the same in both.

    Weights are not below 0: a reader that is worse than chance there is left out, not inverted.
    """
    scales = _scale(first), _scale(second)
    parts = [
        centred_log_scores(reader) / scale
        for reader, scale in zip((first, second), scales, strict=True)
    ]
    y, num_classes = first.labels, len(first.classes)

    def loss(values: Float[np.ndarray, "parameters"]) -> float:
        logits = values[0] * parts[0] + values[1] * parts[1] + values[2:] - values[2:].mean()
        own = log_softmax(logits, axis=1)[np.arange(len(y)), y]
        return float(_RIDGE * values @ values - own.mean())

    start = np.array([0.5, 0.5, *np.zeros(num_classes)])
    bounds = [(0, None), (0, None), *[(None, None)] * num_classes]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    biases = found[2:] - found[2:].mean()
    return Fusion(scales, (float(found[0]), float(found[1])), tuple(biases.tolist()), len(y))


def centred_log_scores(stored: StoredPredictions) -> Logits:
    """Return the logarithm of each class's score less its mean over the classes."""
    if stored.calibration is not None:
        scores = np.log(np.maximum(stored.probabilities, _SMALLEST))
    elif stored.kind == BASELINE:
        scores = np.log(np.maximum(stored.own.scores, _SMALLEST))
    elif stored.rule == "vote":
        scores = np.log(majority_vote(stored.errors, ties=stored.settings["ties"]) + 0.5)
    else:
        scores = stored.own.scores
    centred: np.ndarray = scores - scores.mean(axis=1, keepdims=True)
    return centred


def _scale(stored: StoredPredictions) -> float:
    size = float(np.sqrt((centred_log_scores(stored) ** 2).mean()))
    return size if size > 0 else 1.0
