"""What holds for every stopping rule on any errors, and how often a stopped decision differs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffdx.classification.rules import apply_rule
from diffdx.classification.stopping import (
    Elimination,
    share_interval,
    stopping_rule,
    truncated,
)
from diffdx.classification.stopping.boundary import crossing_probability, lead_boundary
from diffdx.classification.voting import vote_share

# Few different values, so that ties are common.
coarse = st.integers(1, 4).map(np.float32)
TEXTS = [("vote", t) for t in ("exact", "0.3", "0.05", "share:0.3")]
TEXTS += [(f"mean_{space}", "0.2") for space in ("v", "eps", "x")]


@st.composite
def drawn_errors(draw, elements=coarse):
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 15)))
    errors = draw(hnp.arrays(np.float32, shape, elements=elements))
    logsnr = draw(hnp.arrays(np.float32, (shape[0], shape[2]), elements=st.floats(-8, 8, width=32)))
    return errors, logsnr


def make(text: str, rule: str, errors: np.ndarray, ties: str = "split"):
    return stopping_rule(
        text,
        rule=rule,
        num_classes=errors.shape[1],
        num_trials=errors.shape[2],
        ties=ties,
        bound=1.0,
    )


@settings(max_examples=80, deadline=None)
@given(drawn_errors(), st.sampled_from(["split", "lowest"]))
def test_exact_never_changes_a_decision(drawn, ties):
    errors, logsnr = drawn
    stopped = truncated(errors, logsnr, make("exact", "vote", errors, ties))
    full = apply_rule("vote", errors, logsnr, ties=ties).y_hat
    assert np.array_equal(apply_rule("vote", stopped, logsnr, ties=ties).y_hat, full)


@settings(max_examples=40, deadline=None)
@given(drawn_errors(), st.sampled_from(["split", "lowest"]))
def test_exact_stops_as_soon_as_nothing_can_change(drawn, ties):
    """One trial before the stop, some class could still win by winning all the rest."""
    errors, logsnr = drawn
    rule = make("exact", "vote", errors, ties)
    for image, image_logsnr in zip(errors, logsnr, strict=True):
        n = (rule.stopping_time(image, image_logsnr) or errors.shape[2]) - 1
        if n == 0:
            continue
        decisions = set()
        for k in range(len(image)):
            outcome = image.copy()
            outcome[:, n:] = 2.0
            outcome[k, n:] = 1.0
            decisions |= set(apply_rule("vote", outcome[None], image_logsnr[None], ties=ties).y_hat)
        assert len(decisions) > 1


@pytest.mark.parametrize(("rule", "text"), TEXTS)
@settings(max_examples=15, deadline=None)
@given(drawn_errors(elements=st.floats(0.125, 2, width=32)))
def test_a_time_once_reached_stays_and_is_not_before_the_first(rule, text, drawn):
    errors, logsnr = drawn
    stop = make(text, rule, errors)
    for image, image_logsnr in zip(errors, logsnr, strict=True):
        full = stop.stopping_time(image, image_logsnr)
        for n in range(1, errors.shape[2] + 1):
            time = stop.stopping_time(image[:, :n], image_logsnr[:n])
            assert time == (full if full is not None and full <= n else None)
        assert full is None or stop.first_trials <= full


@settings(max_examples=40, deadline=None)
@given(drawn_errors())
def test_a_stop_leaves_the_class_that_it_declared_in_front(drawn):
    """VoteStop: the leader of the sole wins is the decision by votes, whatever was tied."""
    errors, logsnr = drawn
    stopped = truncated(errors, logsnr, make("0.3", "vote", errors))
    early = np.isnan(stopped[:, 0, -1])
    decided = apply_rule("vote", stopped, logsnr).y_hat
    winners = stopped == np.nanmin(np.where(np.isnan(stopped), 9, stopped), axis=1, keepdims=True)
    sole = (winners & (winners.sum(axis=1, keepdims=True) == 1)).sum(axis=2)
    assert np.array_equal(decided[early], sole.argmax(axis=1)[early])


@settings(max_examples=40, deadline=None)
@given(drawn_errors(elements=st.floats(0.125, 2, width=32)))
def test_elimination_needs_no_later_trial_and_no_dropped_error(drawn):
    errors, _ = drawn
    elimination = Elimination(errors.shape[1], errors.shape[2], strictness=0.5)
    for image in errors:
        full = elimination.dropped_after(image)
        marked = np.where(np.arange(image.shape[1]) < full[:, None], image, np.float32(np.inf))
        assert np.array_equal(elimination.dropped_after(marked), full)
        for n in range(1, image.shape[1] + 1):
            assert np.array_equal(elimination.dropped_after(image[:, :n]), np.minimum(full, n))
        assert (full == image.shape[1]).any()


def orders(bank: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Errors (draws, K, N) of one bank in random orders; its entries are the winners."""
    rng = np.random.default_rng(seed)
    winners = rng.permuted(np.tile(bank, (draws, 1)), axis=1)
    num_classes = bank.max() + 1
    return np.where(winners[:, None, :] == np.arange(num_classes)[:, None], 0.5, 1.0)


def wrong_rate(errors: np.ndarray, text: str, ties: str = "split") -> float:
    logsnr = np.zeros((errors.shape[0], errors.shape[2]), np.float32)
    stopped = truncated(errors, logsnr, make(text, "vote", errors, ties))
    full = apply_rule("vote", errors, logsnr, ties=ties).y_hat
    return float((apply_rule("vote", stopped, logsnr, ties=ties).y_hat != full).mean())


DRAWS, DELTA = 600, 0.1
# Three standard errors of a rate of DELTA over DRAWS orders.
SLACK = 3 * (DELTA * (1 - DELTA) / DRAWS) ** 0.5


@pytest.mark.parametrize(
    "counts",
    [
        (50, 51),
        (51, 50),
        (50, 50),
        (48, 53),
        (34, 34, 33),
        (33, 34, 34),
        (50, 51, 0),
        (51, 25, 25),
        (21, 20, 20, 20, 20),
        (26, 25, 25, 25, 0, 0),
    ],
)
def test_no_bank_is_mistaken_more_often_than_delta(counts):
    bank = np.repeat(np.arange(len(counts)), counts)
    assert wrong_rate(orders(bank, DRAWS, sum(counts)), str(DELTA)) <= DELTA + SLACK


def test_the_error_at_the_least_favourable_bank_is_the_computed_one():
    """Two-sided binomial check: at 50 : 51 the wrong class is declared as often as computed."""
    rate = wrong_rate(orders(np.repeat([0, 1], [50, 51]), 2500, 1), str(DELTA))
    exact = crossing_probability(lead_boundary(101, DELTA), [101])[0]
    standard_error = (exact * (1 - exact) / 2500) ** 0.5
    # Banks that meet the right side first are decided rightly though they would cross later:
    # after a crossing of probability ~1/2 at least, the other side is met with at most ~delta.
    assert exact - DELTA * exact - 3 * standard_error <= rate <= exact + 3 * standard_error


def test_tied_trials_do_not_raise_the_error():
    """40 : 41 with 20 trials tied, given to both by halves."""
    errors = orders(np.repeat([0, 1, 2], [40, 41, 20]), DRAWS, 3)
    tied = errors[:, 2:] == 0.5
    errors = np.where(tied, 0.5, errors)[:, :2]
    assert wrong_rate(errors, str(DELTA)) <= DELTA + SLACK


@pytest.mark.parametrize("text", ["0.1", "exact", "share:0.3"])
@pytest.mark.parametrize("counts", [(50, 51), (20, 81), (3, 98), (10, 30, 61)])
def test_the_interval_covers_the_full_share_whatever_stopped_the_image(text, counts):
    bank = np.repeat(np.arange(len(counts)), counts)
    errors = orders(bank, 400, 7)
    logsnr = np.zeros((errors.shape[0], errors.shape[2]), np.float32)
    stopped = truncated(errors, logsnr, make(text, "vote", errors))
    low, high = share_interval(stopped)
    share = vote_share(np.tile(np.array(counts, float), (1, 1)))[0]
    covered = ((low <= share) & (share <= high)).mean(axis=0)
    assert (covered >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_mean_rule_within_its_bound_keeps_delta(num_classes):
    """Differences of three sizes that leave the wrong class an inch behind."""
    rng = np.random.default_rng(5)
    bank = rng.choice([-0.5, 0.1, 0.5], (num_classes, 100)) * 0.5 + 1
    bank -= bank.mean(axis=1, keepdims=True) - 1
    bank[0] -= 1e-6
    order = rng.permuted(np.tile(np.arange(100), (DRAWS, 1)), axis=1)
    errors = bank[:, order].transpose(1, 0, 2)
    logsnr = np.zeros((DRAWS, 100), np.float32)
    rule = stopping_rule(
        str(DELTA), rule="mean_v", num_classes=num_classes, num_trials=100, bound=1.0
    )
    stopped = truncated(errors, logsnr, rule)
    decided = apply_rule("mean_v", stopped, logsnr).y_hat
    early = np.isnan(stopped[:, 0, -1])
    assert ((decided != 0) & early).mean() <= DELTA + SLACK
