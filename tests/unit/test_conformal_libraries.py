"""The same p-values as crepes and the same sets as MAPIE, given the same probabilities."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from diffdx.uncertainty.conformal import fit_conformal

CALIB, TEST = 120, 200


@pytest.fixture(scope="module")
def images():
    """Probabilities of three classes, coarse enough that scores tie, and labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=CALIB + TEST)
    votes = rng.multinomial(20, np.full((len(y), 3), 0.2) + 0.4 * np.eye(3)[y])
    prob = (votes + 1) / 23
    return prob[:CALIB], y[:CALIB], prob[CALIB:], y[CALIB:]


@pytest.mark.parametrize("by_class", [False, True])
def test_p_values_are_those_of_crepes(images, by_class):
    crepes = pytest.importorskip("crepes", reason="crepes is in the test extra")
    prob, y, new, _ = images
    ours = fit_conformal(prob, y, by_class=by_class)
    theirs = crepes.ConformalClassifier().fit(
        1 - prob[np.arange(CALIB), y], bins=y if by_class else None
    )
    for k in range(3):
        bins = np.full(TEST, k) if by_class else None
        expected = theirs.predict_p(1 - new[:, [k]], bins=bins, smoothing=False)
        np.testing.assert_allclose(ours.p_values(new)[:, k], expected[:, 0], atol=1e-12)


class Precomputed(ClassifierMixin, BaseEstimator):
    """Probabilities as features: what MAPIE asks a classifier for is handed through."""

    classes_ = np.arange(3)
    is_fitted_ = True

    def fit(self, x, y):
        return self

    def predict(self, x):
        return x.argmax(axis=1)

    def predict_proba(self, x):
        return x


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_sets_are_those_of_mapie(images, alpha):
    mapie = pytest.importorskip("mapie.classification", reason="mapie is in the test extra")
    prob, y, new, truth = images
    ours = fit_conformal(prob, y, alpha=alpha, by_class=False).sets(new)
    theirs = mapie.SplitConformalClassifier(
        Precomputed(), confidence_level=1 - alpha, prefit=True, conformity_score="lac"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.conformalize(prob, y)
        _, expected = theirs.predict_set(new)
    np.testing.assert_array_equal(ours, expected[:, :, 0])
    missed = 1 - ours[np.arange(TEST), truth].mean()
    # Of calibration and test draws alike, three standard errors.
    assert missed <= alpha + 3 * np.sqrt(alpha * (1 - alpha) * (1 / CALIB + 1 / TEST))
