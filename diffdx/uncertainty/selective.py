"""What an uncertainty is worth: how good the images are that are left once the uncertain ones go.

Sort n images by uncertainty and keep the i most certain:

    accuracy(i)   share of right predictions among them; the curve of paper Fig. 3 and 8
    risk(i)       1 - accuracy(i), at coverage i / n
    AURC          mean of risk(i) over i = 1..n
    excess AURC   AURC minus that of an order with every wrong prediction last, 0 = cannot be better
    AUROC error   P(a wrong prediction is less certain than a right one), .5 = worth nothing

Images of equal uncertainty have no order, so each counts with the accuracy of its group: the
expectation over all orders, and the same numbers however the images are listed. Vote shares tie
often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diffdx.metrics import auroc

Correct = Bool[np.ndarray, "n"]
Uncertainty = Float[np.ndarray, "n"]


@dataclass(frozen=True)
class SelectiveAccuracy:
    """Accuracy of the most certain images: point i keeps all but the i most uncertain of n."""

    removed: Float[np.ndarray, "n"]
    """Fraction taken out, 0 to (n - 1) / n, ascending."""
    accuracy: Float[np.ndarray, "n"]
    """Accuracy of those kept."""


def selective_accuracy(correct: Correct, uncertainty: Uncertainty) -> SelectiveAccuracy:
    """Return accuracy against the fraction of images filtered out (paper Fig. 3 and 8).

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain, any unit; no nan.

    Raises:
        ValueError: if there is no image or an uncertainty is nan, since it could not be ranked.
    """
    if len(correct) == 0 or np.isnan(uncertainty).any():
        raise ValueError(
            "selective accuracy needs at least one image and no nan among the uncertainties"
        )
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    expected = np.bincount(group, weights=correct)[group] / size[group]
    kept = np.arange(1, len(correct) + 1)
    accuracy = np.cumsum(expected[np.argsort(group, kind="stable")]) / kept
    return SelectiveAccuracy(removed=1 - kept[::-1] / len(correct), accuracy=accuracy[::-1])


def accuracy_at(correct: Correct, uncertainty: Uncertainty, kept: float) -> float:
    """Return the accuracy of the most certain images, at least the share `kept` of them all.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain.
        kept: Share kept, in (0, 1].

    Raises:
        ValueError: if the share keeps no image or more than there are.
    """
    if not 0 < kept <= 1:
        raise ValueError(f"the share kept must lie in (0, 1], for example 0.55; it is {kept}")
    # Less than a millionth of an image is a rounding error of the product.
    count = max(1, math.ceil(kept * len(correct) - 1e-6))
    return float(selective_accuracy(correct, uncertainty).accuracy[len(correct) - count])


def aurc(correct: Correct, uncertainty: Uncertainty) -> float:
    """Return the area under the risk-coverage curve, 0 (no error at all) to 1; smaller is better.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain.
    """
    return float(1 - selective_accuracy(correct, uncertainty).accuracy.mean())


def excess_aurc(correct: Correct, uncertainty: Uncertainty) -> float:
    """Return AURC minus the least that any order of the same predictions could have, >= 0.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain.
    """
    return aurc(correct, uncertainty) - aurc(correct, (~correct).astype(np.float64))


def error_auroc(correct: Correct, uncertainty: Uncertainty) -> float:
    """Return the AUROC of the uncertainty against error; nan if all are right or all wrong.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain.
    """
    scores = np.stack([-uncertainty, uncertainty], axis=1)
    return auroc((~correct).astype(np.int64), scores, positive=1)


def selective_summary(
    correct: Correct, uncertainty: Uncertainty, *, kept: Sequence[float] = (0.55,)
) -> dict[str, Any]:
    """Return the entry `selective` of `summary.json`.

    Args:
        correct: Whether each image was classified rightly.
        uncertainty: Larger = less certain.
        kept: Shares of the images to report the accuracy at.

    Returns:
        `{auroc_error, aurc, excess_aurc, accuracy_at: {share: accuracy}}`; null for an AUROC that
        does not exist.
    """
    area = error_auroc(correct, uncertainty)
    return {
        "auroc_error": None if math.isnan(area) else area,
        "aurc": aurc(correct, uncertainty),
        "excess_aurc": excess_aurc(correct, uncertainty),
        "accuracy_at": {f"{share:g}": accuracy_at(correct, uncertainty, share) for share in kept},
    }
