"""Reliability: definitions, scikit-learn, and what a perfect model of the same size would show."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from diffdx.uncertainty.reliability import (
    brier_score,
    claim,
    decision_curve,
    error_floor,
    log_loss,
    reliability,
)

RNG = np.random.default_rng(0)
CLAIMED = RNG.beta(0.5, 0.5, 500)
HELD = RNG.random(500) < CLAIMED
PROB = np.stack([1 - CLAIMED, CLAIMED], axis=1)
Y = HELD.astype(np.int64)


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_diagram_is_scikit_learns(binning, strategy):
    found = reliability((CLAIMED, HELD), bins=10, binning=binning)
    observed, claimed = calibration_curve(HELD, CLAIMED, n_bins=10, strategy=strategy)
    np.testing.assert_allclose(found.claimed, claimed)
    np.testing.assert_allclose(found.observed, observed)
    assert found.count.sum() == 500
    assert found.error == pytest.approx(found.count @ np.abs(claimed - observed) / 500)


def test_equal_claims_stay_in_one_bin():
    claimed = np.repeat([0.2, 0.7, 0.9], [10, 70, 20])
    held = np.arange(100) % 2 == 0
    found = reliability((claimed, held), bins=10)
    assert found.claimed == pytest.approx([0.2, 0.7, 0.9])
    assert found.count.tolist() == [10, 70, 20]
    # |.2 - .5| 10 + |.7 - .5| 70 + |.9 - .5| 20, over 100.
    assert found.error == pytest.approx(0.25)


def test_scores_are_scikit_learns():
    assert brier_score(PROB, Y) == pytest.approx(2 * sk.brier_score_loss(Y, CLAIMED))
    assert log_loss(PROB, Y) == pytest.approx(sk.log_loss(Y, CLAIMED))
    weights = RNG.integers(0, 4, 500).astype(float)
    twice = np.repeat(np.arange(500), weights.astype(int))
    assert brier_score(PROB, Y, weights=weights) == pytest.approx(
        brier_score(PROB[twice], Y[twice])
    )
    assert log_loss(PROB, Y, weights=weights) == pytest.approx(log_loss(PROB[twice], Y[twice]))


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_the_floor_is_the_mean_error_of_true_claims(binning):
    rng = np.random.default_rng(1)
    errors = [
        reliability((CLAIMED, rng.random(500) < CLAIMED), binning=binning).error for _ in range(400)
    ]
    mean, high = error_floor(CLAIMED, binning=binning)
    standard_error = np.std(errors) * np.sqrt(1 / 400 + 1 / 1000)
    assert abs(mean - np.mean(errors)) <= 3 * standard_error
    # A twentieth lies above the 95% quantile: binomial error over 400 draws.
    assert abs(np.mean(np.array(errors) > high) - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / 400) + 0.01
    # True claims are within the floor's range; exaggerated ones are not.
    assert reliability((CLAIMED, HELD), binning=binning).error <= high
    assert reliability((np.round(CLAIMED), HELD), binning=binning).error > high


def test_the_claim_is_the_positive_class_or_the_likeliest():
    for positive in (0, 1):
        claimed, held = claim(PROB, Y, positive)
        np.testing.assert_array_equal(claimed, PROB[:, positive])
        np.testing.assert_array_equal(held, positive == Y)
    claimed, held = claim(PROB, Y, None)
    np.testing.assert_array_equal(claimed, PROB.max(axis=1))
    np.testing.assert_array_equal(held, (CLAIMED > 0.5) == HELD)


def test_net_benefit_is_its_definition():
    curve = decision_curve((CLAIMED, HELD), points=19)
    assert curve.threshold[4] == pytest.approx(0.25)
    treated = curve.threshold[4] <= CLAIMED
    expected = (HELD[treated].sum() - (~HELD[treated]).sum() / 3) / 500
    assert curve.net_benefit[4] == pytest.approx(expected)
    assert curve.treat_all[4] == pytest.approx(HELD.mean() - (1 - HELD.mean()) / 3)
    # A perfect claim gains the prevalence at every threshold.
    perfect = decision_curve((HELD.astype(float), HELD))
    np.testing.assert_allclose(perfect.net_benefit, HELD.mean())


def test_no_image_has_no_reliability():
    with pytest.raises(ValueError, match="at least one labelled image"):
        reliability((np.zeros(0), np.zeros(0, dtype=bool)))
