"""What filtering by uncertainty is worth: against loops, closed forms and Gaussian theory."""

import numpy as np
import pytest
from scipy.stats import norm

from diffdx.uncertainty.selective import (
    accuracy_at,
    aurc,
    error_auroc,
    excess_aurc,
    selective_accuracy,
    selective_summary,
)


def test_selective_accuracy_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    correct, uncertainty = rng.random(50) < 0.7, rng.random(50)
    curve = selective_accuracy(correct, uncertainty)
    for i in range(50):
        kept = np.argsort(uncertainty)[: 50 - i]
        assert curve.removed[i] == pytest.approx(i / 50)
        assert curve.accuracy[i] == pytest.approx(correct[kept].mean())


def test_images_of_equal_uncertainty_have_no_order() -> None:
    correct = np.array([True, False, True, True, False, True])
    uncertainty = np.array([0.2, 0.2, 0.2, 0.9, 0.9, 0.1])
    curve = selective_accuracy(correct, uncertainty)
    np.testing.assert_allclose(
        curve.accuracy, selective_accuracy(correct[::-1], uncertainty[::-1]).accuracy
    )
    # Kept, most certain first: 1; then three images with 2/3 each; then two with 1/2 each.
    np.testing.assert_allclose(
        curve.accuracy[::-1], np.cumsum([1, 2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2]) / np.arange(1, 7)
    )


def test_selective_accuracy_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        selective_accuracy(np.array([True]), np.array([np.nan]))
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        accuracy_at(np.array([True]), np.array([0.5]), 0.0)


def test_gaussian_theory() -> None:
    """Two classes N(-m, 1), N(m, 1), decided by sign(x), uncertainty -|x|.

    Keeping |x| >= c leaves P(right, kept) = Phi(m - c) and P(wrong, kept) = Phi(-m - c).
    """
    rng = np.random.default_rng(1)
    n, m = 40_000, 1.0
    y = rng.integers(2, size=n)
    x = rng.normal(np.where(y == 1, m, -m))
    correct, uncertainty = (x > 0) == (y == 1), -np.abs(x)
    for c in (0.3, 0.8, 1.5):
        right, wrong = norm.cdf(m - c), norm.cdf(-m - c)
        kept, expected = right + wrong, right / (right + wrong)
        # Binomial standard error of the kept images; the share kept adds little, as the curve is
        # smooth.
        error = np.sqrt(expected * (1 - expected) / (kept * n))
        assert accuracy_at(correct, uncertainty, kept) == pytest.approx(expected, abs=4 * error)
    # A wrong image has density phi(c + m), a right one phi(c - m), over c = |x| > 0.
    grid = np.linspace(0, 10, 20_001)
    right, wrong = norm.pdf(grid - m), norm.pdf(grid + m)
    below = np.cumsum(wrong) / wrong.sum()
    expected = float((right / right.sum()) @ (below - wrong / wrong.sum() / 2))
    errors = (~correct).sum()
    assert error_auroc(correct, uncertainty) == pytest.approx(expected, abs=3 * 0.5 / errors**0.5)


def test_area_is_the_mean_risk_and_the_best_order_has_no_excess() -> None:
    rng = np.random.default_rng(2)
    correct, uncertainty = rng.random(80) < 0.8, rng.integers(6, size=80).astype(float)
    risks = 1 - selective_accuracy(correct, uncertainty).accuracy
    assert aurc(correct, uncertainty) == pytest.approx(risks.mean())
    assert excess_aurc(correct, (~correct).astype(float)) == 0.0
    assert excess_aurc(correct, uncertainty) > 0
    # r wrong ones last of n: mean over i of max(0, i - (n - r)) / i.
    right, i = int(correct.sum()), np.arange(1, 81)
    assert aurc(correct, (~correct).astype(float)) == pytest.approx(
        (np.maximum(0, i - right) / i).mean()
    )
    # No information: every coverage has the same expected risk.
    assert aurc(correct, np.zeros(80)) == pytest.approx(1 - correct.mean())


def test_shares_kept_round_up_to_whole_images() -> None:
    correct = np.array([True, True, True, False])
    uncertainty = np.array([0.1, 0.2, 0.3, 0.4])
    assert accuracy_at(correct, uncertainty, 0.75) == 1.0
    assert accuracy_at(correct, uncertainty, 0.76) == 0.75
    assert accuracy_at(correct, uncertainty, 0.01) == 1.0


def test_summary_has_null_where_nothing_is_wrong() -> None:
    found = selective_summary(np.ones(5, dtype=bool), np.arange(5.0), kept=(0.55, 0.8))
    assert found == {
        "auroc_error": None,
        "aurc": 0.0,
        "excess_aurc": 0.0,
        "accuracy_at": {"0.55": 1.0, "0.8": 1.0},
    }
