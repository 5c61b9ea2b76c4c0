"""Which training images does their style speak against?

The style of an image is what it has without any place in it:

    s = (quantiles of the grey levels, log power of each octave of spatial frequency)

Cameras, exposure, processing and resizing make it, and it may tell the classes of a collection
apart where the disease need not be looked at; another hospital's images have another style. With
p(y | s) of a logistic regression that has not seen the patient, style speaks against an image where

    p(y_true | s) < max over the other classes of p(y | s)

Showing these images as often as the others makes style a poor guide to the class, and takes nothing
away from any image.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffdx._typing import Labels
from diffdx.training.images import ImageTable

FOLDS = 5
FEWEST = 16
"""Images of a class that its style must speak against to be shown more often than others."""
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_AT_ONCE = 256
_SMALLEST = 1e-12
"""Power of an octave that an image has nothing in."""


def style_of(stored: Shaped[np.ndarray, "N C S S"]) -> Float[np.ndarray, "N F"]:
    """Return the style of images, stored as integers: quantiles of grey and log power by octave."""
    side = stored.shape[-1]
    cycles = np.hypot(np.fft.fftfreq(side, 1 / side)[:, None], np.fft.rfftfreq(side, 1 / side))
    first = 2 ** np.arange(max(1, int(np.log2(side / 2))))
    octaves = (cycles >= first[:, None, None]) & (cycles < 2 * first[:, None, None])
    parts = []
    for start in range(0, len(stored), _AT_ONCE):
        grey = stored[start : start + _AT_ONCE].mean(axis=1) / np.iinfo(stored.dtype).max
        power = np.abs(np.fft.rfft2(grey)) ** 2
        of_octaves = [power[:, octave].mean(axis=1) for octave in octaves]
        levels = np.quantile(grey, QUANTILES, axis=(1, 2))
        parts.append(np.stack([*levels, *np.log(np.array(of_octaves) + _SMALLEST)], axis=1))
    return np.concatenate(parts)


def style_strata(images: ImageTable) -> Labels:
    """Return 1 for training images that their style speaks against, 0 for the others."""
    patients = [record.patient_id or record.image_id for record in images.records]
    return against_style(style_of(images.stored), images.labels, patients).astype(np.int64)


def against_style(
    style: Float[np.ndarray, "N F"], labels: Labels, patients: Sequence[str]
) -> Bool[np.ndarray, "N"]:
    """Return which images their style speaks against; none where that cannot be told.

    It cannot with fewer than `FOLDS` patients, or if a fold's other patients lack a class. Of a
    class with fewer than `FEWEST` such images none is named.

    Args:
        style: See `style_of`.
        labels: True class of each image, from 0.
        patients: Whose images they are; a patient's are judged by a regression without them.
    """
    none = np.zeros(len(labels), dtype=bool)
    folds = _folds(labels, np.unique(patients, return_inverse=True)[1])
    if folds is None:
        return none
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    prob = cross_val_predict(model, style, labels, cv=folds, method="predict_proba")
    named = prob.argmax(axis=1) != labels
    for k in np.unique(labels):
        if (named & (labels == k)).sum() < FEWEST:
            named[labels == k] = False
    return np.asarray(named)


def _folds(labels: Labels, patients: Labels) -> list[tuple[np.ndarray, np.ndarray]] | None:
    if patients.max() + 1 < FOLDS:
        return None
    folds = list(GroupKFold(FOLDS).split(labels, labels, patients))
    every = len(np.unique(labels))
    return folds if all(len(np.unique(labels[rows])) == every for rows, _ in folds) else None
