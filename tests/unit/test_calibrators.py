"""Calibrators: scikit-learn's fits, the exact posterior of a known problem, honest ends."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from diffdx.uncertainty.calibrators import METHODS, Calibrator, fit_calibrator
from diffdx.uncertainty.logit import fit_logit, smoothed_targets


def two_gaussians(n, share=0.3, shift=2.0, seed=0):
    """Labels, uniform-prior scores of classes N(-+shift/2, 1) and the posterior at that share."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    x = rng.normal(shift * (y - 0.5), 1.0)
    odds = shift * x  # log N(x; shift/2, 1) - log N(x; -shift/2, 1)
    posterior = expit(odds + np.log(share / (1 - share)))
    return y, np.stack([-odds / 4, odds / 4], axis=1), posterior


def spread(labels, targets):
    """Soft targets as weighted hard labels, which scikit-learn takes."""
    rows = np.repeat(np.arange(len(labels)), 2)
    return rows, np.tile([0, 1], len(labels)), targets.ravel()


@pytest.mark.parametrize("method", METHODS)
def test_the_posterior_of_a_known_problem_is_found(method):
    n = 4000
    y, scores, posterior = two_gaussians(n)
    held = two_gaussians(2000, seed=1)
    prob = fit_calibrator(method, scores, y).probabilities(held[1])
    np.testing.assert_allclose(prob.sum(axis=1), 1.0)
    # Fisher information of slope and bias at the truth bounds a parametric fit; the variance of p
    # follows by the delta method. Isotonic averages blocks: 3 sqrt(p q / 80) holds for 80 images.
    design = np.stack([scores[:, 1] * 2, np.ones(n)], axis=1)
    information = (design * (posterior * (1 - posterior))[:, None]).T @ design
    at = np.stack([held[1][:, 1] * 2, np.ones(2000)], axis=1)
    variance = np.einsum("ij,jk,ik->i", at, np.linalg.inv(information), at)
    error = prob[:, 1] - held[2]
    if method == "isotonic":
        inner = (held[2] > 0.02) & (held[2] < 0.98)
        limit = 4 * np.sqrt(held[2] * (1 - held[2]) / 80)
        assert (np.abs(error) <= limit)[inner].mean() >= 0.95
    else:
        limit = 4 * held[2] * (1 - held[2]) * np.sqrt(variance)
        extra = 1.5 if method == "beta" else 1.0  # one more parameter than the bound knows
        # Smoothed targets move p by less than 2 / 1100, the smaller class's count.
        assert (np.abs(error) <= extra * limit + 2e-3).all()


def test_platt_and_beta_equal_scikit_learn():
    y, scores, _ = two_gaussians(300)
    targets = smoothed_targets(y, 2)
    rows, hard, weight = spread(y, targets)
    odds = (scores[:, 1] - scores[:, 0])[:, None]
    s = expit(odds)
    for method, features in (("platt", odds), ("beta", np.hstack([np.log(s), -np.log1p(-s)]))):
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        reference.fit(features[rows], hard, sample_weight=weight)
        assert (reference.coef_ > 0).all()
        expected = reference.predict_proba(features)
        found = fit_calibrator(method, scores, y).probabilities(scores)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_beta_bends_where_platt_cannot():
    rng = np.random.default_rng(0)
    s = rng.uniform(0.02, 0.98, 3000)
    p = expit(3 * np.log(s) - 0.5 * np.log1p(-s) + 1.5)
    y = (rng.random(3000) < p).astype(np.int64)
    scores = np.log(np.stack([1 - s, s], axis=1))
    worst = {
        method: np.abs(fit_calibrator(method, scores, y).probabilities(scores)[:, 1] - p).max()
        for method in ("platt", "beta")
    }
    assert worst["beta"] < 0.06 < worst["platt"]


@pytest.mark.parametrize("method", METHODS)
def test_separable_scores_claim_no_more_than_their_number_shows(method):
    scores = np.array([[0.0, z] for z in np.linspace(-9, 9, 40)])
    y = (scores[:, 1] > 0).astype(np.int64)
    calibrator = fit_calibrator(method, scores, y)
    prob = calibrator.probabilities(np.array([[0.0, -30.0], [0.0, 30.0]]))
    assert (prob > 0).all()
    if method == "isotonic":
        # 20 images on each side: Krichevsky and Trofimov's 1 / (2 * 21).
        np.testing.assert_allclose(prob[[0, 1], [1, 0]], 1 / 42)
    inside = calibrator.probabilities(scores)[np.arange(40), 1 - y]
    assert inside.mean() > 0.4 / 21


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_score_never_lowers_the_probability(method):
    y, scores, _ = two_gaussians(200, seed=3)
    grid = np.stack([np.zeros(101), np.linspace(-8, 8, 101)], axis=1)
    prob = fit_calibrator(method, scores, y).probabilities(grid)[:, 1]
    assert (np.diff(prob) >= -1e-12).all()
    assert prob[-1] > prob[0]


@pytest.mark.parametrize("method", METHODS)
def test_three_classes_sum_to_one_and_may_be_permuted(method):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    scores = rng.normal(0, 1, (400, 3)) + 1.5 * np.eye(3)[y]
    prob = fit_calibrator(method, scores, y).probabilities(scores)
    np.testing.assert_allclose(prob.sum(axis=1), 1.0)
    order = np.array([2, 0, 1])
    permuted = fit_calibrator(method, scores[:, order], np.argsort(order)[y])
    np.testing.assert_allclose(permuted.probabilities(scores[:, order]), prob[:, order], atol=1e-3)
    posterior = softmax(1.5 * scores, axis=1)
    # A model that knew nothing would be 1/3 everywhere, about 0.3 off on average.
    assert np.abs(prob - posterior).mean() < 0.06


def test_an_eliminated_class_has_no_probability():
    calibrator = Calibrator("platt", {"slope": 1.0, "biases": [0.0, 0.0, 0.0]})
    prob = calibrator.probabilities(np.array([[0.0, -np.inf, 0.0]]))
    np.testing.assert_allclose(prob, [[0.5, 0.0, 0.5]])


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrator_comes_back_from_json(method):
    y, scores, _ = two_gaussians(100)
    calibrator = fit_calibrator(method, scores, y)
    again = Calibrator.from_dict(json.loads(json.dumps(calibrator.as_dict())))
    np.testing.assert_array_equal(again.probabilities(scores), calibrator.probabilities(scores))


def test_weights_never_turn_evidence_around():
    y, scores, _ = two_gaussians(200)
    weights, _ = fit_logit(np.stack([scores, -scores], axis=2), smoothed_targets(y, 2))
    assert weights[0] > 0
    assert weights[1] == 0


def test_what_cannot_be_fitted_is_refused():
    y, scores, _ = two_gaussians(20)
    with pytest.raises(ValueError, match="'histogram' is none of temperature"):
        fit_calibrator("histogram", scores, y)
    with pytest.raises(ValueError, match="a class has no image"):
        fit_calibrator("platt", scores, np.zeros(20, dtype=np.int64))
