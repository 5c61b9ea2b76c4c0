"""Conformal sets: classes that together miss the truth in at most a share alpha of images.

Split conformal prediction on probabilities that were fitted on other images (Vovk, Gammerman and
Shafer 2005; Sadinle, Lei and Wasserman 2019). An image's score under class k is s_k = 1 - prob_k.
With n calibration images of scores s_1 .. s_n under their true classes,

    p_k = (#{s_i > s_k} + u (1 + #{s_i = s_k})) / (n + 1)

and class k is in the set if p_k > alpha.

u ~ U[0, 1) makes p of the true class exactly uniform, so that coverage is 1 - alpha exactly; u = 1
is deterministic and covers at least as often. By class (Mondrian), the calibration images of class
k alone judge class k, so that each class is covered 1 - alpha, however rare it is; otherwise all
images judge every class and only the average over the classes is covered.

The promise is an average over calibration sets and new images, and holds if these are exchangeable:
same scanner, site, prevalence (by class: whatever the prevalence). With n < 1/alpha - 1 images the
smallest p exceeds alpha: the class is in every set and the guarantee is void.

An empty set says that no class fits the image: refer it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diffdx._typing import Labels
from diffdx.uncertainty.exchangeable import one_per_patient

Probabilities = Float[np.ndarray, "B K"]
Sets = Bool[np.ndarray, "B K"]
"""Whether each class is in the set of each image."""


@dataclass(frozen=True)
class ConformalSets:
    """Calibration scores, and the miss rate that the sets allow."""

    alpha: float
    """Allowed share of images whose set misses the truth, in (0, 1)."""
    by_class: bool
    """Whether the coverage holds within each class."""
    scores: tuple[tuple[float, ...], ...]
    """For each class the scores 1 - prob of its calibration images, ascending."""

    def p_values(
        self, prob: Probabilities, u: Float[np.ndarray, "B"] | None = None
    ) -> Probabilities:
        """Return how well each class fits each image among the calibration images, in (0, 1].

        Args:
            prob: Probabilities of the classes.
            u: A uniform draw in [0, 1) for each image, for coverage that is exact; None for sets
                that depend on the image alone and cover at least as often.

        Raises:
            ValueError: if there are not as many probabilities as classes.
        """
        if prob.shape[1] != len(self.scores):
            raise ValueError(
                f"{prob.shape[1]} probabilities an image, but the sets were fitted on "
                f"{len(self.scores)} classes; use the run's own calibration"
            )
        draw = np.ones(len(prob)) if u is None else u
        pooled = np.sort(np.concatenate([np.asarray(own) for own in self.scores]))
        p = np.empty(prob.shape)
        for k, own in enumerate(self.scores):
            known = np.asarray(own, dtype=np.float64) if self.by_class else pooled
            score = 1 - prob[:, k].astype(np.float64)
            below_or_equal = np.searchsorted(known, score, side="right")
            equal = below_or_equal - np.searchsorted(known, score, side="left")
            p[:, k] = (len(known) - below_or_equal + draw * (1 + equal)) / (len(known) + 1)
        return p

    def sets(self, prob: Probabilities, u: Float[np.ndarray, "B"] | None = None) -> Sets:
        """Return whether each class is in each image's set; arguments as for `p_values`."""
        return np.asarray(self.p_values(prob, u) > self.alpha)

    def notices(self, classes: Sequence[str]) -> list[str]:
        """Return a sentence for each class, or for all, whose guarantee is void.

        Args:
            classes: Names of the classes in the order of the scores.
        """
        counts = [len(own) for own in self.scores]
        judges = (
            [(f"class {name}", n) for name, n in zip(classes, counts, strict=True)]
            if self.by_class
            else [("all classes", sum(counts))]
        )
        return [
            f"Conformal sets: the guarantee at alpha {self.alpha:g} is void for {whom}: {n} "
            f"calibration patients, {needed(self.alpha)} are needed."
            for whom, n in judges
            if n < needed(self.alpha)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        scores = [list(own) for own in self.scores]
        return {"alpha": self.alpha, "by_class": self.by_class, "scores": scores}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ConformalSets":
        """Return the sets that `as_dict` described.

        Args:
            stored: Entries `alpha`, `by_class`, `scores`.
        """
        scores = tuple(tuple(map(float, own)) for own in stored["scores"])
        return cls(float(stored["alpha"]), bool(stored["by_class"]), scores)


def needed(alpha: float) -> int:
    """Return the fewest calibration images with which a class can be left out: 1/alpha - 1."""
    # 1/.02 is a little more than 50 in floating point.
    return math.ceil(1 / alpha - 1 - 1e-9)


def fit_conformal(
    prob: Probabilities,
    labels: Labels,
    *,
    alpha: float = 0.1,
    by_class: bool = True,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> ConformalSets:
    """Return conformal sets from labelled calibration images.

    Args:
        prob: Probabilities of the classes, from a model and calibrator that did not see these
            images: scores of images that were fitted are too good, and the sets then too small.
        labels: True classes.
        alpha: Allowed share of misses, in (0, 1).
        by_class: Whether to promise the coverage within each class.
        groups: The patient of each image; one image of each is used.
        seed: Which.

    Raises:
        ValueError: if alpha is no such share, there is no image, or a probability or label is not
            one: no quantile would mean anything.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), for example 0.1; it is {alpha}")
    if len(prob) == 0 or np.isnan(prob).any():
        raise ValueError("conformal sets need at least one image and no nan among probabilities")
    if labels.min() < 0 or labels.max() >= prob.shape[1]:
        raise ValueError(f"labels must lie in 0..{prob.shape[1] - 1}; leave unlabelled images out")
    chosen = one_per_patient(groups, len(prob), seed=seed)
    y = labels[chosen]
    score = 1 - prob[chosen, y].astype(np.float64)
    scores = tuple(tuple(np.sort(score[y == k]).tolist()) for k in range(prob.shape[1]))
    return ConformalSets(alpha, by_class, scores)


def set_texts(sets: Sets, classes: Sequence[str]) -> list[str]:
    """Return each set as a text: `{A}`, `{A, B}`, or `{}` where no class fits (refer).

    Args:
        sets: Whether each class is in each image's set.
        classes: Names of the classes.
    """
    return [
        "{" + ", ".join(name for name, inside in zip(classes, row, strict=True) if inside) + "}"
        for row in sets
    ]


def set_coverage(sets: Sets, labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Return how often the sets hold the truth, and how large they are.

    Args:
        sets: Whether each class is in each image's set.
        labels: True classes.
        classes: Names of the classes.

    Returns:
        `{marginal, per_class, mean_size, empty, single}`: shares of all images, the mean number of
        classes in a set; null where there is no image.
    """
    covered, size = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    per_class = {name: _mean(covered[labels == k]) for k, name in enumerate(classes)}
    return {
        "marginal": _mean(covered),
        "per_class": per_class,
        "mean_size": _mean(size),
        "empty": _mean(size == 0),
        "single": _mean(size == 1),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
