"""McNemar against scipy's binomial test; DeLong against its definition and resamples."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from diffdx.metrics import delong, mcnemar


def scores(n=120, *, seed=0, shared=0.6, effect=(1.2, 0.9)):
    """Positives, and two correlated scores with ties."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    common = rng.standard_normal(n)
    made = [
        np.round(e * y + shared * common + math.sqrt(1 - shared**2) * rng.standard_normal(n), 1)
        for e in effect
    ]
    return y, *made


@pytest.mark.parametrize(
    ("only_a", "only_b", "both"), [(0, 0, 5), (3, 9, 20), (40, 41, 3), (7, 0, 1)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, both):
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    found = mcnemar(a, b)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value == pytest.approx(expected)


def test_mcnemar_of_thousands_of_images_does_not_overflow():
    a = np.arange(6000) % 2 == 0
    assert mcnemar(a, ~a).p_value == pytest.approx(1.0)
    b = np.arange(6000) % 3 == 0
    assert 0 < mcnemar(a, b).p_value < 1e-20


def test_delong_equals_the_definition_by_pairs():
    y, a, b = scores(60)
    found = delong(y, a, b)
    psi = [
        (s[y][:, None] > s[~y]) + 0.5 * (s[y][:, None] == s[~y]) for s in (a, b)
    ]  # fmt: skip
    v10, v01 = [p.mean(axis=1) for p in psi], [p.mean(axis=0) for p in psi]
    covariance = np.cov(v10) / y.sum() + np.cov(v01) / (~y).sum()
    gradient = np.array([1, -1])
    assert found.auroc_a == pytest.approx(roc_auc_score(y, a))
    assert found.auroc_b == pytest.approx(roc_auc_score(y, b))
    assert found.difference == pytest.approx(found.auroc_a - found.auroc_b)
    assert found.standard_error == pytest.approx(math.sqrt(gradient @ covariance @ gradient))


def test_delong_error_is_that_of_stratified_resamples():
    y, a, b = scores(400, seed=3)
    rng = np.random.default_rng(0)
    sides, drawn = (np.flatnonzero(y), np.flatnonzero(~y)), []
    for _ in range(400):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        drawn.append(roc_auc_score(y[rows], a[rows]) - roc_auc_score(y[rows], b[rows]))
    # The standard error of a standard deviation of 400 draws is 1 / sqrt(2 * 400) = 3.5% of it;
    # four of these, and 3% for the bootstrap's own bias with 160 images on a side.
    assert delong(y, a, b).standard_error == pytest.approx(np.std(drawn), rel=0.17)


def test_delong_rejects_as_often_as_it_says_where_both_are_equally_good():
    p = [delong(*scores(150, seed=s, effect=(1.0, 1.0))).p_value for s in range(400)]
    # 400 draws at 5%: standard error 1.1%, four of them either way.
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.044)


def test_the_same_score_twice_has_no_error_and_no_p_value():
    y, a, _ = scores(40)
    found = delong(y, a, a)
    assert (found.difference, found.standard_error) == (0, 0)
    assert math.isnan(found.p_value)


def test_delong_exchanged_is_its_mirror():
    y, a, b = scores(50)
    one, other = delong(y, a, b), delong(y, b, a)
    assert one.difference == -other.difference
    assert one.p_value == other.p_value


def test_delong_needs_two_images_on_each_side():
    with pytest.raises(ValueError, match="two images on each side; it has 1 and 3"):
        delong(np.array([True, False, False, False]), np.arange(4.0), np.arange(4.0))
