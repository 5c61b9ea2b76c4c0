"""Stopping rules one by one: what they say on small runs, and what they refuse."""

import itertools
import math

import numpy as np
import pytest

from diffdx.classification.rules import apply_rule
from diffdx.classification.stopping import (
    Elimination,
    clipping_bound,
    difference_bound,
    log_capital,
    share_interval,
    share_sequence,
    stopping_rule,
    truncated,
)
from diffdx.classification.stopping.interval import ShareStop
from diffdx.classification.stopping.means import MeanStop, space_costs
from diffdx.errors import ConfigError, DataError


def errors_of(winners: list[int], num_classes: int = 2) -> np.ndarray:
    """Errors (K, n) in which the given class wins each trial; -1 = all classes tie."""
    errors = np.ones((num_classes, len(winners)), np.float32)
    for n, winner in enumerate(winners):
        if winner >= 0:
            errors[winner, n] = 0.5
    return errors


def stop_after(text: str, errors: np.ndarray, num_trials: int, **options) -> int | None:
    options = {"rule": "vote"} | options
    rule = stopping_rule(text, num_classes=len(errors), num_trials=num_trials, **options)
    return rule.stopping_time(errors, np.zeros(errors.shape[1], np.float32))


@pytest.mark.parametrize(
    ("winners", "num_trials", "expected"),
    [
        ([0, 0, 0], 5, 3),
        ([0, 0, 1, 0], 5, 4),
        ([0, 0], 4, 2),  # 2:2 would go to class 0
        ([1, 1, 1], 4, 3),  # 1 needs a majority
        ([1, 1], 4, None),
        ([0], 1, 1),
        ([-1, -1], 2, 2),
        ([-1, 0], 3, 2),  # 1.5 : 0.5 can become a tie, which is class 0's
        ([-1, 1], 3, None),
    ],
)
def test_curtailment(winners, num_trials, expected):
    assert stop_after("exact", errors_of(winners), num_trials) == expected


def test_curtailment_of_three_classes_asks_all_of_them():
    errors = errors_of([2, 2, 2, 0, 1, 2, 2], 3)
    # After 6 trials it is 4 : 1 : 1, and class 0 would win a tied total of 4 : 4.
    assert stop_after("exact", errors, 9) == 7
    assert stop_after("exact", errors[:, :6], 9) is None


def test_shared_trials_count_against_a_stop():
    assert stop_after("0.01", errors_of([0] * 40), 501) < 20
    assert 20 < stop_after("0.01", errors_of([0, 0, 0, -1] * 100), 501) < 100
    assert stop_after("0.01", errors_of([-1] * 41), 41) is None
    # With `lowest` a shared trial is class 0's.
    assert stop_after("0.01", errors_of([-1] * 40), 501, ties="lowest") < 20


@pytest.mark.parametrize("num_classes", [2, 3, 200])
@pytest.mark.parametrize("num_trials", [1, 2, 101])
def test_unanimous_votes_stop_at_first_trials_and_never_before(num_classes, num_trials):
    errors = errors_of([0] * num_trials, num_classes)
    for text in ("exact", "0.01", "share:0.2"):
        rule = stopping_rule(text, rule="vote", num_classes=num_classes, num_trials=num_trials)
        time = rule.stopping_time(errors, np.zeros(num_trials, np.float32))
        assert rule.name == text
        assert time == rule.first_trials <= num_trials


def test_200_classes_need_more_trials_than_2_but_far_from_all():
    two = stop_after("0.01", errors_of([0] * 201), 201)
    many = stop_after("0.01", errors_of([0] * 201, 200), 201)
    assert two < many < 100


def test_none_never_stops():
    rule = stopping_rule("none", rule="mean_x", num_classes=2, num_trials=7)
    assert rule.first_trials == 7
    assert rule.stopping_time(errors_of([0] * 7), np.zeros(7, np.float32)) is None


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("0", {}, "strictly between"),
        ("1", {}, "strictly between"),
        ("nan", {}, "strictly between"),
        ("-0.01", {}, "strictly between"),
        ("nan", {"rule": "mean_v", "bound": 1.0}, "strictly between"),
        ("share:0", {}, "strictly between"),
        ("share:1", {}, "strictly between"),
        ("share:nan", {}, "strictly between"),
        ("share:", {}, "use none, exact"),
        ("share:wide", {}, "use none, exact"),
        ("soon", {}, "use none, exact"),
        ("exact", {"rule": "mean_v"}, "--rule vote"),
        ("share:0.1", {"rule": "weighted"}, "--rule vote"),
        ("0.01", {"rule": "mean_v"}, "diffdx calibrate"),
        ("0.01", {"rule": "weighted", "bound": 1.0}, "diffdx calibrate"),
        ("0.01", {"rule": "mean_v", "bound": 0.0}, "positive"),
        ("0.01", {"rule": "mean_v", "bound": math.nan}, "positive"),
        ("exact", {"num_classes": 1}, "at least two classes"),
        ("none", {"num_trials": 0}, "--trials 0"),
    ],
)
def test_what_means_no_rule_is_refused(text, options, message):
    options = {"rule": "vote", "num_classes": 2, "num_trials": 11} | options
    with pytest.raises(ConfigError, match=message):
        stopping_rule(text, **options)


def test_the_share_interval_closes_on_the_truth_at_the_end():
    wins = np.arange(12)
    low, high = share_sequence(wins, np.array(11), 11)
    assert np.array_equal(low, wins / 11)
    assert np.array_equal(high, wins / 11)
    low, high = share_sequence(np.array([0]), np.array([0]), 11)
    assert (low[0], high[0]) == (0, 1)


def test_the_share_interval_is_the_set_of_its_definition():
    """Every M tried, with the probabilities written out, for 9 trials."""
    num_trials, level = 9, 0.8
    for n in range(num_trials + 1):
        for s in range(n + 1):
            prior = 0.2
            data = math.exp(
                math.lgamma(s + prior)
                + math.lgamma(n - s + prior)
                - math.lgamma(n + 2 * prior)
                - 2 * math.lgamma(prior)
                + math.lgamma(2 * prior)
            )
            inside = [
                m
                for m in range(s, num_trials - n + s + 1)
                if data / (math.comb(num_trials - n, m - s) / math.comb(num_trials, m))
                < 1 / (1 - level)
            ]
            low, high = share_sequence(np.array([s]), np.array([n]), num_trials, level)
            assert low[0] == inside[0] / num_trials
            assert high[0] == inside[-1] / num_trials


def test_share_interval_reads_stopped_errors_and_widens_with_shared_trials():
    clear, shared = errors_of([0] * 30 + [1] * 10), errors_of([0] * 30 + [-1] * 10)
    full = np.full((2, 2, 101), np.nan, np.float32)
    full[0, :, :40], full[1, :, :40] = clear, shared
    low, high = share_interval(full)
    expected = share_sequence(np.array([30, 10]), np.array(40), 101)
    assert np.array_equal((low[0], high[0]), expected)
    assert low[1, 0] == low[0, 0]
    assert high[1, 0] == 1
    assert np.allclose(low[:, 0], 1 - high[:, 1], atol=1e-12)


def test_a_narrower_share_takes_more_trials():
    errors = errors_of([0, 0, 0, 1] * 100)
    wide, narrow = (stop_after(f"share:{width}", errors, 400) for width in (0.3, 0.1))
    assert wide < narrow < 400


def test_many_classes_share_the_error_of_the_interval():
    assert ShareStop(0.1, 2, 51).level == 0.95
    assert ShareStop(0.1, 5, 51).level == pytest.approx(0.99)


def test_impossible_counts_and_levels_are_refused():
    with pytest.raises(ValueError, match="counts"):
        share_sequence(np.array(3), np.array(2), 9)
    with pytest.raises(ConfigError, match="level"):
        share_sequence(np.array(1), np.array(2), 9, level=1.0)


def test_the_bet_against_a_fair_bank_gains_nothing_on_average():
    """E[W_n] = 1 exactly, over all orders of a bank of sum 0 whose differences obey the bound."""
    bank = np.array([0.5, -1.0, 0.25, -0.25, 1.0, -0.5])
    orders = np.array(list(itertools.permutations(bank)))
    capital = np.exp(log_capital(orders, len(bank), 1.0))
    # At the last trial nothing is left to bet on, so capital must not be certain there.
    assert np.allclose(capital[:, :-1].mean(axis=0), 1, rtol=1e-9)
    assert np.isfinite(capital[:, :-1]).all()


def test_a_lead_that_cannot_be_lost_is_certain():
    capital = log_capital(np.full((1, 8), 1.0), 8, 1.0)[0]
    # After 4 of 8 the worst is a tie, after 5 the sum is positive.
    assert np.isfinite(capital[:4]).all()
    assert np.isinf(capital[5:]).all()


def test_from_the_clipping_bound_on_no_decision_changes():
    rng = np.random.default_rng(1)
    costs = rng.standard_t(2, (40, 3, 15)) + np.array([0.0, 0.2, 0.4])[:, None]
    bound = clipping_bound(costs)
    winners = costs.sum(axis=2).argmin(axis=1)
    differences = costs - np.take_along_axis(costs, winners[:, None, None], axis=1)
    for limit in bound * np.linspace(1, 10, 50):
        sums = np.clip(differences, -limit, limit).sum(axis=2)
        assert ((sums > 0) | (np.arange(3) == winners[:, None])).all()


def test_at_the_next_smaller_difference_the_decision_does_change():
    rng = np.random.default_rng(2)
    for image in rng.standard_t(2, (40, 2, 15)):
        bound = clipping_bound(image[None])
        difference = image[0] - image[1]
        sizes = np.sort(np.abs(difference))
        place = np.searchsorted(sizes, bound)
        assert sizes[place] == bound
        if place > 0:
            below = np.clip(difference, -sizes[place - 1], sizes[place - 1]).sum()
            assert np.sign(below) != np.sign(difference.sum())


def test_difference_bound_is_in_the_rules_space():
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.5, 1, (5, 2, 9)).astype(np.float32)
    logsnr = np.full((5, 9), 2.0, np.float32)
    in_v = difference_bound(errors, logsnr, "v")
    # One log-SNR for all trials: eps errors are v errors times sigmoid(2).
    assert difference_bound(errors, logsnr, "eps") == pytest.approx(in_v / (1 + math.exp(-2)))


def test_a_bound_from_incomplete_or_equal_errors_is_refused():
    errors = np.ones((2, 2, 3), np.float32)
    with pytest.raises(DataError, match="same errors"):
        difference_bound(errors, np.zeros((2, 3), np.float32), "v")
    errors[0, :, 2] = np.nan
    with pytest.raises(DataError, match="lacks trials"):
        difference_bound(errors, np.zeros((2, 3), np.float32), "v")


def test_a_mean_rule_stops_on_the_class_of_least_mean():
    rng = np.random.default_rng(3)
    errors = (1 + 0.1 * rng.standard_normal((4, 3, 201))).astype(np.float32)
    errors[:, 1] -= 0.2
    logsnr = rng.uniform(-2, 2, (4, 201)).astype(np.float32)
    for space in ("v", "eps", "x"):
        rule = stopping_rule(
            "0.01",
            rule=f"mean_{space}",
            num_classes=3,
            num_trials=201,
            bound=difference_bound(errors, logsnr, space),
        )
        replayed = truncated(errors, logsnr, rule)
        assert np.isnan(replayed[:, :, -1]).all()
        assert (apply_rule(f"mean_{space}", replayed, logsnr).y_hat == 1).all()
        used = np.isfinite(replayed[:, 0]).sum(axis=1)
        assert (used >= rule.first_trials).all()


def test_a_weighted_rule_stops_by_its_own_costs():
    errors = errors_of([0, 0, 0, 1] * 25)
    logsnr = np.tile([0, 0, 0, 9], 25).astype(np.float32)

    def only_high(errors: np.ndarray, logsnr: np.ndarray) -> np.ndarray:
        return errors * (logsnr > 5)[:, None, :]

    rule = stopping_rule(
        "0.01", rule="weighted", num_classes=2, num_trials=100, bound=0.5, costs=only_high
    )
    time = rule.stopping_time(errors, logsnr)
    assert time is not None
    assert only_high(errors[None], logsnr[None])[0, :, :time].sum(axis=1).argmin() == 1
    plain = MeanStop(0.01, 2, 100, space_costs("v"), 0.5)
    assert plain.stopping_time(errors, logsnr) is not None


def test_elimination_saves_calls_and_leaves_the_winner():
    rng = np.random.default_rng(4)
    errors = rng.uniform(0.5, 1, (7, 301)).astype(np.float32)
    errors[3] -= 0.3
    errors[5] -= 0.25
    elimination = Elimination(7, 301)
    dropped_after = elimination.dropped_after(errors)
    assert elimination.name == "eliminate:0.01"
    assert dropped_after.argmax() == 3
    assert dropped_after.min() >= elimination.first_trials
    assert dropped_after.sum() < 0.5 * 7 * 301


def test_with_two_classes_elimination_is_the_stop():
    rng = np.random.default_rng(5)
    errors = rng.uniform(0.5, 1, (20, 2, 101)).astype(np.float32)
    errors[:, 1] -= rng.uniform(-0.1, 0.1, (20, 1)).astype(np.float32)
    logsnr = np.zeros((20, 101), np.float32)
    options = {"rule": "vote", "num_classes": 2, "num_trials": 101}
    stopped = truncated(errors, logsnr, stopping_rule("0.01", **options))
    dropped = truncated(errors, logsnr, stopping_rule("none", **options), Elimination(2, 101))
    assert np.array_equal(stopped, dropped, equal_nan=True)


def test_replay_marks_dropped_classes_and_the_trials_after_the_last_rival():
    errors = errors_of([0] * 60, 3)[None]
    rule = stopping_rule("none", rule="vote", num_classes=3, num_trials=60)
    replayed = truncated(errors, np.zeros((1, 60), np.float32), rule, Elimination(3, 60))[0]
    end = int(np.isfinite(replayed[0]).sum())
    assert end == Elimination(3, 60).first_trials
    assert np.isnan(replayed[:, end:]).all()
    assert np.isfinite(replayed[:, :end]).all()

    errors[0, 1, ::2] = 0.4  # class 1 keeps pace with class 0, class 2 does not
    replayed = truncated(errors, np.zeros((1, 60), np.float32), rule, Elimination(3, 60))[0]
    dropped = int(np.isfinite(replayed[2]).sum())
    assert np.isinf(replayed[2, dropped : dropped + 5]).all()
    assert np.isfinite(replayed[:2, dropped]).all()


def test_elimination_refuses_a_strictness_that_is_no_probability():
    with pytest.raises(ConfigError, match="strictly between"):
        Elimination(3, 11, strictness=6.0)


def test_a_stopped_run_cannot_be_replayed():
    errors = np.full((1, 2, 3), np.nan, np.float32)
    rule = stopping_rule("none", rule="vote", num_classes=2, num_trials=3)
    with pytest.raises(DataError, match="--stop none"):
        truncated(errors, np.zeros((1, 3), np.float32), rule)
