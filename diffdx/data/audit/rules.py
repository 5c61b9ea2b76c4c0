"""How well a few facts that are not about the disease tell the classes apart.

A shallow decision tree is fitted to the facts, with all images of a patient in the same fold, and
compared with the rule that always names the most frequent class:

    excess = accuracy(tree) - accuracy(majority)

the first cross-validated, the second the share of the most frequent class. The standard error of
the excess is that of a mean of paired differences, one a patient.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.tree import DecisionTreeClassifier

from diffdx.metrics import auroc

EXCESS = 0.10
"""Accuracy above the majority rule from which on a rule is reported (spec section 7)."""
STANDARD_ERRORS = 3.0
"""How many standard errors the excess must be above zero: 1 clean set in 700 by chance."""
RARE_AUROC = 0.90
"""AUROC from which on a rule is reported though a rare class keeps its excess small."""

FOLDS = 5
DEPTH = 4
LARGEST_CATEGORIES = 30
MIN_IMAGES = 30


@dataclass(frozen=True)
class RuleScore:
    """How well a rule names the label.

    Attributes:
        facts: What it looks at.
        n: Images it was tried on.
        accuracy: Cross-validated.
        majority: Of always naming the most frequent class.
        auroc: Cross-validated, macro average over classes.
        standard_error: Of `accuracy - majority`.
        test: Accuracy on the test role when fitted to the train role; None without those roles.
        surest: For each class, images that the rule is surest of, as positions.
    """

    facts: str
    n: int
    accuracy: float
    majority: float
    auroc: float
    standard_error: float
    test: float | None
    surest: tuple[tuple[int, ...], ...]

    @property
    def excess(self) -> float:
        """Accuracy above the majority rule."""
        return self.accuracy - self.majority

    @property
    def is_found(self) -> bool:
        """Whether the rule is too good to be ignored, and not by chance."""
        return self.excess >= max(EXCESS, STANDARD_ERRORS * self.standard_error)

    @property
    def is_suspicious(self) -> bool:
        """Whether it ranks well, though it names a rare class too seldom to gain accuracy."""
        return not self.is_found and self.auroc >= RARE_AUROC

    def text(self) -> str:
        """Return the scores in words."""
        test = "" if self.test is None else f", on test {self.test:.3f}"
        return (
            f"{self.facts}: accuracy {self.accuracy:.3f}{test} against {self.majority:.3f} of the "
            f"majority rule, AUROC {self.auroc:.3f}"
        )


def encode(values: pd.Series) -> Float[np.ndarray, "n columns"]:
    """Return a text column as numbers: itself if it is numeric, else a 0/1 column a category.

    Blank numbers are NaN, which a tree sends to one side; a blank category is a category.
    """
    filled = values != ""
    numbers = pd.to_numeric(values.where(filled), errors="coerce")
    if filled.any() and numbers[filled].notna().mean() > 0.9:
        return np.asarray(numbers, dtype=float)[:, None]
    return categories(values)


def categories(values: pd.Series) -> Float[np.ndarray, "n columns"]:
    """Return a 0/1 column for each of the 30 most frequent values."""
    frequent = values.value_counts().index[:LARGEST_CATEGORIES]
    return np.stack([(values == name).to_numpy(dtype=float) for name in frequent], axis=1)


def score_rule(
    facts: str,
    features: Float[np.ndarray, "n columns"],
    labels: Int[np.ndarray, "n"],
    units: Int[np.ndarray, "n"],
    *,
    train: Bool[np.ndarray, "n"],
    test: Bool[np.ndarray, "n"],
) -> RuleScore | None:
    """Return how well a shallow tree on these features names the label.

    Args:
        facts: What the features are, in words.
        features: Numbers, NaN where unknown.
        labels: Class indices from 0.
        units: Patients: images of one are never on both sides of a fold.
        train: The images a rule for the test set is fitted to.
        test: The test set.

    Returns:
        None if there are fewer than 30 images, fewer than two classes, or a class with fewer
        patients than folds: the score would be chance.
    """
    num_classes = int(labels.max(initial=-1)) + 1
    counts = [len(np.unique(units[labels == k])) for k in range(num_classes)]
    if len(labels) < MIN_IMAGES or num_classes < 2 or min(counts) < FOLDS:
        return None
    fold = _folds(labels, units)
    chances = np.zeros((len(labels), num_classes))
    for k in range(FOLDS):
        held = fold == k
        chances[held] = _fitted(features[~held], labels[~held], features[held], num_classes)
    right = chances.argmax(axis=1) == labels
    is_frequent = labels == np.bincount(labels).argmax()
    gains = right.astype(float) - is_frequent
    tested = None
    if test.any() and len(np.unique(labels[train])) > 1:
        named = _fitted(features[train], labels[train], features[test], num_classes).argmax(axis=1)
        tested = float((named == labels[test]).mean())
    return RuleScore(
        facts=facts,
        n=len(labels),
        accuracy=float(right.mean()),
        majority=float(is_frequent.mean()),
        auroc=auroc(labels, chances, positive=1 if num_classes == 2 else None),
        standard_error=float(gains.std() / np.sqrt(len(np.unique(units)))),
        test=tested,
        surest=tuple(_surest(chances, right, k) for k in range(num_classes)),
    )


def _fitted(
    features: Float[np.ndarray, "n columns"],
    labels: Int[np.ndarray, "n"],
    asked: Float[np.ndarray, "m columns"],
    num_classes: int,
) -> Float[np.ndarray, "m classes"]:
    tree = DecisionTreeClassifier(
        max_depth=DEPTH, min_samples_leaf=max(5, len(labels) // 100), random_state=0
    )
    tree.fit(features, labels)
    chances = np.zeros((len(asked), num_classes))
    chances[:, tree.classes_] = tree.predict_proba(asked)
    return chances


def _folds(labels: Int[np.ndarray, "n"], units: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Return a fold for each image: patients in random order, dealt out class by class."""
    rng = np.random.default_rng(0)
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    shuffled = rng.permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold_of_unit = np.empty(len(first), dtype=np.int64)
    fold_of_unit[by_class] = np.arange(len(first)) % FOLDS
    folds: Int[np.ndarray, n] = fold_of_unit[unit]
    return folds


def _surest(
    chances: Float[np.ndarray, "n classes"], right: Bool[np.ndarray, "n"], k: int
) -> tuple[int, ...]:
    """Return up to four images of a class that the rule names with the greatest confidence."""
    order = np.argsort(-np.where(right, chances[:, k], 0), kind="stable")[:4]
    return tuple(int(i) for i in order if right[i] and chances[i].argmax() == k)
