"""Metrics of decisions: what the predicted class is worth, whatever the score behind it.

All of them are functions of the weighted confusion matrix

    C[i, j] = sum_n w_n 1[y_n = i] 1[y_hat_n = j]

    accuracy           sum_i C[i, i] / sum_ij C[i, j]
    recall of class i  C[i, i] / sum_j C[i, j]
    balanced accuracy  mean_i of the recalls
    F1 of class i      2 C[i, i] / (sum_j C[i, j] + sum_j C[j, i])

A weight counts an image: weight 2 is the same as the image twice, weight 0 as the image left out.
The bootstrap resamples patients through these weights. A quantity that the labels leave undefined
(0 / 0) is nan.
"""

import numpy as np
from jaxtyping import Float, Int


def confusion_matrix(
    y: Int[np.ndarray, "n"],
    y_hat: Int[np.ndarray, "n"],
    *,
    num_classes: int,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "K K"]:
    """Count the images of each true class (rows) that were given each class (columns).

    Args:
        y: True classes in 0 .. num_classes - 1.
        y_hat: Predicted classes, same range.
        num_classes: K >= 2.
        weights: How often each image counts, >= 0; once each by default.

    Raises:
        ValueError: if a class is out of range, since it would be counted in another cell.
    """
    for name, classes in (("y", y), ("y_hat", y_hat)):
        if classes.size and (classes.min() < 0 or classes.max() >= num_classes):
            raise ValueError(
                f"{name} holds classes outside 0..{num_classes - 1}; map labels to indices first"
            )
    cells = np.bincount(y * num_classes + y_hat, weights=weights, minlength=num_classes**2)
    return cells.astype(np.float64).reshape(num_classes, num_classes)


def accuracy(
    y: Int[np.ndarray, "n"],
    y_hat: Int[np.ndarray, "n"],
    *,
    weights: Float[np.ndarray, "n"] | None = None,
) -> float:
    """Return the fraction of images given their true class; nan without any image."""
    correct = (y == y_hat).astype(np.float64)
    if weights is None:
        weights = np.ones_like(correct)
    return _ratio(float(weights @ correct), float(weights.sum()))


def class_recalls(
    y: Int[np.ndarray, "n"],
    y_hat: Int[np.ndarray, "n"],
    *,
    num_classes: int,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "K"]:
    """Return the fraction of each class's images that were given it; nan for an absent class."""
    confusion = confusion_matrix(y, y_hat, num_classes=num_classes, weights=weights)
    return np.array([_ratio(confusion[k, k], confusion[k].sum()) for k in range(num_classes)])


def balanced_accuracy(
    y: Int[np.ndarray, "n"],
    y_hat: Int[np.ndarray, "n"],
    *,
    num_classes: int,
    weights: Float[np.ndarray, "n"] | None = None,
) -> float:
    """Return the mean of the classes' recalls: the accuracy if classes were equally frequent.

    nan if a class has no image: the mean over the other classes would be another quantity under the
    same name.
    """
    return float(class_recalls(y, y_hat, num_classes=num_classes, weights=weights).mean())


def f1(
    y: Int[np.ndarray, "n"],
    y_hat: Int[np.ndarray, "n"],
    *,
    num_classes: int,
    positive: int | None = None,
    weights: Float[np.ndarray, "n"] | None = None,
) -> float:
    """Return the F1 score of the positive class, or the unweighted mean over the classes.

    Args:
        y: True classes in 0 .. num_classes - 1.
        y_hat: Predicted classes, same range.
        num_classes: K >= 2.
        positive: The class whose F1 is wanted; None takes the mean over all K (macro F1).
        weights: How often each image counts, >= 0; once each by default.

    Returns:
        A value in [0, 1]; nan if a class that enters is neither present nor predicted (0 / 0).
    """
    confusion = confusion_matrix(y, y_hat, num_classes=num_classes, weights=weights)
    members = range(num_classes) if positive is None else [positive]
    scores = [
        _ratio(2 * confusion[k, k], confusion[k].sum() + confusion[:, k].sum()) for k in members
    ]
    return float(np.mean(scores))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
