"""Bands of curves: they are around the curve, and cover it as often as they say."""

import numpy as np
import pytest
from sklearn import metrics as sk

from diffdx.evaluation.bands import precision_recall_band, roc_band, selective_band
from diffdx.metrics import patient_resamples, precision_recall_curve, roc_curve
from diffdx.uncertainty import selective_accuracy


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.4
    score = np.round(rng.normal(size=300) + positive, 1)  # with ties
    weights = rng.integers(0, 4, 300).astype(float)
    return positive, score, weights


def test_weighted_curves_are_scikit_learns(scored) -> None:
    positive, score, weights = scored
    for w in (None, weights + 1):
        fpr, tpr, _ = sk.roc_curve(positive, score, sample_weight=w, drop_intermediate=False)
        for ours, theirs in zip(roc_curve(positive, score, weights=w), (fpr, tpr), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        precision, recall, _ = sk.precision_recall_curve(positive, score, sample_weight=w)
        found, exact = precision_recall_curve(positive, score, weights=w)
        # Scikit-learn lists them backwards and adds (0, 1).
        np.testing.assert_allclose(found, recall[:-1][::-1], atol=1e-12)
        np.testing.assert_allclose(exact, precision[:-1][::-1], atol=1e-12)


def test_a_weight_of_two_is_the_image_twice(scored) -> None:
    positive, score, weights = scored
    twice = np.repeat(np.arange(300), weights.astype(int))
    for curve in (roc_curve, precision_recall_curve):
        kept = curve(positive, score, weights=weights)
        for ours, copied in zip(kept, curve(positive[twice], score[twice]), strict=True):
            kept_once = np.unique(np.round(ours[~np.isnan(ours)], 12))
            np.testing.assert_allclose(kept_once, np.unique(np.round(copied, 12)))


def test_the_band_is_around_the_curve(scored) -> None:
    positive, score, _ = scored
    resamples = patient_resamples([str(i // 2) for i in range(300)], n_resamples=100)
    band = roc_band(positive, score, resamples)
    fpr, tpr = roc_curve(positive, score)
    np.testing.assert_allclose(band.value, np.interp(band.x, fpr, tpr))
    assert (band.low <= band.high).all()
    inside = (band.low <= band.value) & (band.value <= band.high)
    assert inside.mean() > 0.95
    ranked = precision_recall_band(positive, score, resamples)
    assert ranked.value[-1] == pytest.approx(positive.mean(), abs=0.1)
    assert ranked.x[-1] == 1


def test_selective_band_is_the_selective_curve(scored) -> None:
    correct, uncertainty, _ = scored
    once = np.ones((2, 300))
    band = selective_band(correct, uncertainty, once)
    curve = selective_accuracy(correct, uncertainty)
    assert band.value[-1] == pytest.approx(correct.mean())
    places = np.interp(band.x, (1 - curve.removed)[::-1], curve.accuracy[::-1])
    # Between two images the one interpolates shares of right answers, the other accuracies.
    np.testing.assert_allclose(band.value, places, atol=1 / 40)
    np.testing.assert_allclose(band.low, band.value)
    np.testing.assert_allclose(band.high, band.value)


def test_the_band_covers_as_often_as_it_says() -> None:
    """Mean over 60 data sets of whether the band holds the true rate, 95% +- 3 standard errors.

    With score ~ N(0, 1) and N(1, 1) the true rate at a false positive rate of .2 is
    Phi(1 - Phi^-1(.8)) = .5629. SE = sqrt(.95 .05 / 60) = .028; the percentile bootstrap at 200
    patients is a little narrow, which one more standard error allows for.
    """
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        positive = np.arange(200) < 100
        score = rng.normal(size=200) + positive
        resamples = patient_resamples([str(i) for i in range(200)], n_resamples=100, seed=seed)
        band = roc_band(positive, score, resamples)
        held.append(band.low[20] <= 0.5629 <= band.high[20])
    assert np.mean(held) > 0.95 - 4 * 0.028


def test_a_resample_without_a_side_has_no_curve() -> None:
    positive, score = np.array([True, False, False]), np.array([3.0, 2.0, 1.0])
    without = np.array([[0.0, 1.0, 2.0]])
    band = roc_band(positive, score, without)
    assert np.isnan(band.low).all()
    assert band.value[-1] == 1
    assert np.isnan(precision_recall_band(positive, score, without).high).all()
