"""Entropy, margin and intervals of a vote, and how much its trials vary."""

import numpy as np
import pytest
from scipy.stats import binom

from diffdx.uncertainty import margin_variance, share_interval, vote_entropy, vote_margin


def test_entropy_and_margin_at_known_shares() -> None:
    share = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(vote_entropy(share), [0.0, 1.0, 0.811278124459], rtol=1e-11)
    np.testing.assert_allclose(vote_margin(share), [1.0, 0.0, 0.5])
    assert vote_entropy(np.full((1, 8), 1 / 8))[0] == pytest.approx(3.0)


def test_interval_covers_the_true_share_as_often_as_it_says() -> None:
    """Coverage is summed exactly over the binomial; Jeffreys' interval has 95% on average."""
    n = 101
    wins = np.arange(n + 1.0)
    low, high = share_interval(wins, np.full(n + 1, float(n)))
    shares = np.linspace(0.05, 0.95, 181)
    coverage = [binom.pmf(wins, n, p)[(low <= p) & (p <= high)].sum() for p in shares]
    # The coverage of one share swings within .02 of .95 (lattice of 1/101); its mean over 181
    # shares within a tenth of it.
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.005)
    assert min(coverage) > 0.92


def test_interval_is_closed_at_the_ends_and_symmetric() -> None:
    low, high = share_interval(np.array([0.0, 7.0, 21.0]), np.full(3, 21.0), level=0.9)
    assert (low[0], high[2]) == (0.0, 1.0)
    np.testing.assert_allclose(
        low, 1 - share_interval(21 - np.array([0.0, 7.0, 21.0]), np.full(3, 21.0), level=0.9)[1]
    )
    assert low[1] < 7 / 21 < high[1]


def test_interval_refuses_impossible_counts_and_levels() -> None:
    with pytest.raises(ValueError, match="votes must lie in"):
        share_interval(np.array([3.0]), np.array([2.0]))
    with pytest.raises(ValueError, match="level must lie"):
        share_interval(np.array([1.0]), np.array([2.0]), level=95.0)


def test_several_classes_compare_the_first_two() -> None:
    share = np.array([[0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(vote_margin(share), [0.2, 0.0])


def test_margin_variance_by_hand() -> None:
    errors = np.array(
        [
            [[1.0, 2.0, 3.0], [2.0, 5.0, 7.0], [9.0, 9.0, 9.0]],  # leads 1, 3, 4
            [[1.0, 2.0, np.nan], [9.0, 9.0, np.nan], [2.0, 5.0, np.nan]],  # leads 1, 3
            [[1.0, np.nan, np.nan], [2.0, np.nan, np.nan], [3.0, np.nan, np.nan]],  # one trial
            [[1.0, 2.0, 3.0], [np.inf, np.inf, np.inf], [2.0, 5.0, 7.0]],  # one class eliminated
        ]
    )
    np.testing.assert_allclose(
        margin_variance(errors), [np.var([1, 3, 4], ddof=1), 2.0, np.nan, np.var([1, 3, 4], ddof=1)]
    )
