"""Shallow rules against an oracle whose accuracy is known, and against facts that say nothing."""

import numpy as np
import pandas as pd
import pytest

from diffdx.data.audit.rules import EXCESS, RuleScore, categories, encode, score_rule

N = 2000


def scored(features, labels, *, units=None, test=None):
    test = np.zeros(len(labels), dtype=bool) if test is None else test
    units = np.arange(len(labels)) if units is None else units
    return score_rule("fact", features, labels, units, train=~test, test=test)


def told(right, *, n=N, prevalence=0.5, seed=0):
    """A 0/1 fact that equals the label with probability `right`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(np.int64)
    fact = np.where(rng.random(n) < right, labels, 1 - labels)
    return fact.astype(float)[:, None], labels


@pytest.mark.parametrize("right", [0.5, 0.65, 0.9, 1.0])
def test_the_accuracy_of_a_known_fact_is_found(right):
    features, labels = told(right)
    score = scored(features, labels)
    # Four standard errors of a share of N images, and of the half that guessing may lose.
    error = 4 * np.sqrt(0.25 / N)
    assert score.accuracy == pytest.approx(right, abs=error)
    assert score.auroc == pytest.approx(right, abs=1.5 * error)
    assert score.is_found == (right >= 0.65)


def test_the_test_split_is_scored_by_what_was_fitted_to_the_train_split():
    features, labels = told(0.9)
    test = np.arange(N) >= 1500
    features[test] = 1 - features[test]
    score = scored(features, labels, test=test)
    right = float((features[test, 0] == labels[test]).mean())
    assert score.test == pytest.approx(right, abs=1e-9), "the rule learned that the fact is true"
    assert score.test < 0.15


def test_a_patient_is_never_on_both_sides():
    """A fact that only names the patient predicts nothing about other patients."""
    rng = np.random.default_rng(0)
    label_of = rng.integers(0, 2, 200)
    units = np.repeat(np.arange(200), 10)
    score = scored(units[:, None].astype(float), label_of[units], units=units)
    # 200 patients: three standard errors of a share of one half are .11.
    assert score.accuracy < 0.5 + 0.11
    assert not score.is_found


def test_noise_is_not_found_in_a_small_set():
    """3 of 1000 small clean sets at most may raise an alarm: see STANDARD_ERRORS."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        score = scored(rng.standard_normal((60, 4)), rng.integers(0, 2, 60))
        found += score.is_found
    # The chance of more than two in a hundred at that rate is .004.
    assert found <= 2


def test_a_rare_class_is_suspected_by_its_rank():
    features, labels = told(0.98, n=4000, prevalence=0.03)
    score = scored(features, labels)
    assert score.excess < EXCESS, "always naming the frequent class is right in 97 of 100"
    assert score.is_suspicious


@pytest.mark.parametrize(
    ("labels", "units"),
    [
        (np.arange(20) % 2, np.arange(20)),  # fewer than 30 images
        (np.zeros(100, dtype=int), np.arange(100)),  # one class
        (np.arange(100) % 2, np.arange(100) % 2 + np.arange(100) % 4),  # four patients
        (np.zeros(0, dtype=int), np.zeros(0, dtype=int)),
    ],
)
def test_no_score_where_it_would_be_chance(labels, units):
    assert scored(np.zeros((len(labels), 1)), labels, units=units) is None


def test_text_becomes_numbers_or_categories():
    ages = encode(pd.Series(["40", "", "55.0", "70"]))
    np.testing.assert_array_equal(ages, [[40], [np.nan], [55], [70]])
    sexes = encode(pd.Series(["male", "", "female", "male"]))
    assert sexes.sum(axis=1).tolist() == [1, 1, 1, 1], "blank is a category"
    sites = categories(pd.Series(["0", "1", "1"]))
    assert sites.tolist() == [[0, 1], [1, 0], [1, 0]], "the most frequent first"


def test_a_score_says_its_numbers():
    score = RuleScore("size", 100, 0.9, 0.5, 0.95, 0.03, 0.88, ())
    assert score.text() == (
        "size: accuracy 0.900, on test 0.880 against 0.500 of the majority rule, AUROC 0.950"
    )
