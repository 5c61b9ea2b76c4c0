"""Prevalence: Bayes' rule, its inverse, and shares found without labels."""

import numpy as np
import pytest
from scipy.special import expit

from diffdx.errors import ConfigError
from diffdx.uncertainty.prevalence import (
    EM_MIN_IMAGES,
    correct_prevalence,
    estimate_prevalence,
    parse_prevalence,
)

CLASSES = ["NORMAL", "PNEUMONIA"]


def images(n, share, seed=0, shift=2.0):
    """Labels, and probabilities at prevalence 0.5 of classes N(-+shift/2, 1)."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    p = expit(shift * rng.normal(shift * (y - 0.5), 1.0))
    return y, np.stack([1 - p, p], axis=1)


def test_correction_is_bayes_rule_on_the_odds():
    _, prob = images(50, 0.5)
    moved = correct_prevalence(prob, np.array([0.5, 0.5]), np.array([0.9, 0.1]))
    np.testing.assert_allclose(
        moved[:, 1] / moved[:, 0], prob[:, 1] / prob[:, 0] * (0.1 / 0.9), rtol=1e-12
    )
    back = correct_prevalence(moved, np.array([0.9, 0.1]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(back, prob, rtol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_em_finds_the_share_and_makes_the_probabilities_true(share):
    n = 4000
    y, prob = images(n, share)
    prior = np.array([0.5, 0.5])
    found = estimate_prevalence(prob, prior)
    # Error of a mixture's share: 1 / sqrt(n I), I = E[((f1 - f0) / f)^2] of the mixture f.
    mixture = 2 * (prob * [1 - share, share]).sum(axis=1)
    information = ((2 * prob[:, 1] - 2 * prob[:, 0]) / mixture) ** 2
    error = 1 / np.sqrt(n * information.mean())
    assert abs(found[1] - share) <= 3 * error
    moved = correct_prevalence(prob, prior, found)[:, 1]
    spread = np.sqrt((moved * (1 - moved)).sum()) / n
    assert abs(moved.mean() - y.mean()) <= 3 * (spread + error)


def test_em_at_the_calibration_prevalence_changes_next_to_nothing():
    _, prob = images(4000, 0.5)
    prior = np.array([0.5, 0.5])
    # Three standard errors of a share of about half, at two thirds of the information of labels.
    assert abs(estimate_prevalence(prob, prior)[1] - 0.5) < 3 * 0.5 / np.sqrt(4000 * 0.66)


def test_em_keeps_an_absent_class_possible():
    prob = np.tile([[0.999, 0.001]], (EM_MIN_IMAGES, 1))
    found = estimate_prevalence(prob, np.array([0.5, 0.5]))
    assert 0 < found[1] < 2e-4


def test_em_refuses_a_handful_of_images():
    _, prob = images(EM_MIN_IMAGES - 1, 0.5)
    with pytest.raises(ConfigError, match="at least 50 images, there are 49"):
        estimate_prevalence(prob, np.array([0.5, 0.5]))


def test_a_number_means_the_positive_class():
    assert parse_prevalence("0.2", CLASSES, "PNEUMONIA") == {"NORMAL": 0.8, "PNEUMONIA": 0.2}
    assert parse_prevalence("0.2", CLASSES, "NORMAL") == {"NORMAL": 0.2, "PNEUMONIA": 0.8}
    assert parse_prevalence("em", CLASSES, None) == "em"
    three = parse_prevalence("C=0.5, A=0.2, B=0.3", ["A", "B", "C"], None)
    assert list(three.items()) == [("A", 0.2), ("B", 0.3), ("C", 0.5)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("half", "use em, or shares"),
        ("0", "above 0 and below 1"),
        ("1.0", "above 0 and below 1"),
        ("nan", "above 0 and below 1"),
        ("NORMAL=0.5", "each class once"),
        ("NORMAL=0.5,PNEUMONIA=0.6", "with sum 1"),
        ("NORMAL=0.5,OTHER=0.5", "each class once"),
    ],
)
def test_shares_that_mean_nothing_are_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_prevalence(text, CLASSES, "PNEUMONIA")


def test_one_number_needs_a_positive_class_of_two():
    for classes, positive in ((CLASSES, None), (["A", "B", "C"], "A")):
        with pytest.raises(ConfigError, match="two classes of which one is positive"):
            parse_prevalence("0.3", classes, positive)
