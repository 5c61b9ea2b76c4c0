"""A site's shift of the scores: found without labels, and zero where there is none."""

import json

import numpy as np
import pytest
from scipy.special import expit

from diffdx.errors import ConfigError
from diffdx.uncertainty.calibrators import Calibrator
from diffdx.uncertainty.prevalence import EM_MIN_IMAGES, correct_prevalence, estimate_prevalence
from diffdx.uncertainty.site import ScoreDensity, estimate_site, fit_density, shifted

PRIOR = np.array([0.4, 0.6])
CALIBRATOR = Calibrator("platt", {"slope": 1.0, "biases": np.log(PRIOR).tolist()})
"""The exact posterior of the problem below."""


def images(n, share, moved=0.0, seed=0):
    """Labels and scores: log-odds N(-+8, 16) of classes that are exactly calibrated."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    u = rng.normal(16 * (y - 0.5), 4.0) + moved
    return y, np.stack([np.zeros(n), u], axis=1)


@pytest.fixture(scope="module")
def density():
    y, scores = images(2000, PRIOR[1], seed=1)
    return fit_density(scores, y)


@pytest.mark.parametrize("moved", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_shift_and_share_are_found(density, moved, share):
    n = 1000
    y, scores = images(n, share, moved)
    shift, shares = estimate_site(CALIBRATOR, density, scores, PRIOR)
    # Error of a location: 4 / sqrt(n); the density was estimated from 2,000 images, whose location
    # has an error too, and overlapping classes hide a little (a tenth, at two deviations apart).
    error = 4 * np.sqrt(1 / n + 1 / 2000) * 1.1
    assert abs(shift - moved) <= 3 * error
    assert abs(shares[1] - y.mean()) <= 3 * np.sqrt(share * (1 - share) / n)
    prob = correct_prevalence(CALIBRATOR.probabilities(shifted(scores, shift)), PRIOR, shares)
    truth = expit(scores[:, 1] - moved + np.log(share / (1 - share)))
    # The log-odds are wrong by the shift's error and the shares'; p q of them reach p.
    allowed = truth * (1 - truth) * 3 * (error + 1 / np.sqrt(n * share * (1 - share))) + 0.02
    assert (np.abs(prob[:, 1] - truth) <= allowed).mean() > 0.99


def test_without_it_a_shift_is_taken_for_prevalence(density):
    y, scores = images(1000, 0.3, 8.0)
    alone = estimate_prevalence(CALIBRATOR.probabilities(scores), PRIOR)[1]
    _, together = estimate_site(CALIBRATOR, density, scores, PRIOR)
    assert alone - y.mean() > 0.1
    assert abs(together[1] - y.mean()) < 0.03


def test_the_density_is_one_and_comes_back_from_json(density):
    u = np.linspace(-60, 60, 4001)
    assert np.trapezoid(np.exp(density.log_density(u)), u) == pytest.approx(1, abs=1e-3)
    assert density.gap == pytest.approx(16, abs=3 * 4 * np.sqrt(1 / 800 + 1 / 1200))
    assert ScoreDensity.from_dict(json.loads(json.dumps(density.as_dict()))) == density


def test_taking_a_shift_back_leaves_other_scores_alone():
    scores = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(shifted(scores, 2.0), scores - [0, 0, 2])
    np.testing.assert_array_equal(shifted(scores, 0.0), scores)


def test_a_handful_of_images_is_refused(density):
    _, scores = images(EM_MIN_IMAGES - 1, 0.5)
    with pytest.raises(ConfigError, match="at least 50 images, there are 49"):
        estimate_site(CALIBRATOR, density, scores, PRIOR)
