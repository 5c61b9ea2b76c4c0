"""The boundary of a stopped vote: its error is exact, its cost the least, bad input refused."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import beta

from diffdx.classification.stopping.boundary import (
    crossing_probability,
    first_stop,
    lead_boundary,
)
from diffdx.errors import ConfigError


def sqrt_boundary(num_trials: int, c: float) -> np.ndarray:
    """lead >= c sqrt(n (N-n) / (N-1)), at least 1."""
    n = np.arange(1, num_trials + 1)
    return np.maximum(np.ceil(c * np.sqrt(n * (num_trials - n) / (num_trials - 1))), 1).astype(int)


def all_walks(num_trials: int) -> np.ndarray:
    """Leads of every sequence of votes, (2^N, N)."""
    steps = np.array(list(itertools.product([-1, 1], repeat=num_trials)))
    return steps.cumsum(axis=1)


@pytest.mark.parametrize(("c", "delta"), [(3.347, 0.01), (3.962, 0.001)])
def test_the_constants_of_the_square_root_shape_are_the_smallest_to_three_decimals(c, delta):
    assert crossing_probability(sqrt_boundary(501, c), [501])[0] <= delta
    assert crossing_probability(sqrt_boundary(501, c - 0.001), [501])[0] > delta


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_crossing_probability_is_that_of_all_orders(size):
    rng = np.random.default_rng(size)
    walks = all_walks(size)
    bank = walks[walks[:, -1] == 2 * (size // 2) - size]
    for _ in range(10):
        boundary = rng.integers(1, 6, 9)
        crossed = (bank >= boundary[:size]).any(axis=1).mean()
        assert crossing_probability(boundary, [size])[0] == pytest.approx(crossed, abs=1e-12)


@pytest.mark.parametrize("num_trials", [1, 2, 3, 20, 101, 200])
@pytest.mark.parametrize("delta", [0.3, 0.01, 1e-6])
def test_the_error_is_at_most_delta(num_trials, delta):
    boundary = lead_boundary(num_trials, delta)
    assert crossing_probability(boundary, [num_trials])[0] <= delta
    assert boundary.min() >= 1


def test_among_many_classes_the_error_holds_for_every_number_of_trials():
    boundary = lead_boundary(201, 0.01 / 6, any_size=True)
    assert crossing_probability(boundary, range(1, 202)).max() <= 0.01 / 6
    of_all = lead_boundary(201, 0.01 / 6)
    assert crossing_probability(of_all, range(1, 202)).max() > 0.01 / 6


def test_delta_is_nearly_used_up():
    assert crossing_probability(lead_boundary(501, 0.01), [501])[0] > 0.0095
    assert crossing_probability(lead_boundary(501, 0.001), [501])[0] > 0.00095


def test_a_tiny_delta_leaves_curtailment():
    boundary = lead_boundary(21, 1e-300)
    n = np.arange(1, 22)
    assert crossing_probability(boundary, [21])[0] == 0
    # One vote short of the other class is 10 of 21: 11 votes are certain.
    assert np.array_equal(boundary[10:], np.maximum(2 * 11 - n[10:], 1))
    assert first_stop(boundary) == 11


def test_no_boundary_is_cheaper_at_the_same_error():
    """All 576 symmetric boundaries of 7 trials against the one returned, over all 128 orders."""
    num_trials, prior = 7, 0.7
    walks = all_walks(num_trials)
    wins = (walks[:, -1] + num_trials) // 2
    of_prior = beta(wins + prior, num_trials - wins + prior) / beta(prior, prior)
    of_bank = (wins == num_trials // 2) / math.comb(num_trials, num_trials // 2)

    def cost_and_error(boundary: np.ndarray) -> tuple[float, float]:
        time = (np.abs(walks) >= boundary).argmax(axis=1)
        for_a = walks[np.arange(len(walks)), time] > 0
        return float(of_prior @ (time + 1)), float(of_bank @ for_a)

    leads = [[*range(2 - n % 2, n + 1, 2), 99] for n in range(1, num_trials)]
    everything = [cost_and_error(np.array([*b, 1])) for b in itertools.product(*leads)]
    for delta in (0.05, 0.1, 0.2, 0.4):
        cost, error = cost_and_error(lead_boundary(num_trials, delta, prior=prior))
        assert error <= delta
        assert not any(c < cost - 1e-9 and e <= error + 1e-12 for c, e in everything)


def test_easy_images_stop_earlier_than_with_the_square_root_shape():
    """Mean trials over unanimous to 90:10 banks, which is where most images lie."""
    rng = np.random.default_rng(0)
    share = rng.beta(0.2, 0.2, 4000)
    walks = (2 * (rng.random((4000, 501)) < share[:, None]) - 1).cumsum(axis=1)

    def mean_trials(boundary: np.ndarray) -> float:
        return float(((np.abs(walks) >= boundary).argmax(axis=1) + 1).mean())

    assert mean_trials(lead_boundary(501, 0.01)) < 0.97 * mean_trials(sqrt_boundary(501, 3.347))


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        lead_boundary(11, delta)
