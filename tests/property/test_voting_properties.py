"""What must hold for the vote and the mean on any errors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffdx.classification.voting import (
    count_tied_trials,
    majority_vote,
    mean_error,
    predict_mean,
    to_space,
    trial_votes,
    vote_entropy,
    vote_share,
)

shapes = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(1, 30))
positive = st.floats(2.0**-20, 100, width=32)


@st.composite
def errors_and_logsnr(draw):
    shape = draw(shapes)
    errors = draw(hnp.arrays(np.float32, shape, elements=positive))
    logsnr = draw(
        hnp.arrays(np.float32, (shape[0], shape[2]), elements=st.floats(-20, 20, width=32))
    )
    return errors, logsnr


@settings(max_examples=60, deadline=None)
@given(errors_and_logsnr())
def test_the_vote_is_the_same_in_every_space(drawn):
    errors, logsnr = drawn
    for space in ("eps", "x"):
        moved = to_space(errors, logsnr, space)
        assert np.array_equal(trial_votes(moved), trial_votes(errors))
        assert np.array_equal(count_tied_trials(moved), count_tied_trials(errors))


def test_the_vote_keeps_the_order_of_errors_one_float32_step_apart():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.01, 2, (3, 1, 1001)).astype(np.float32)
    errors = np.concatenate([np.nextafter(first, np.float32(9)), first], axis=1)
    logsnr = rng.uniform(-20, 20, (3, 1001)).astype(np.float32)
    for space in ("v", "eps", "x"):
        votes = majority_vote(to_space(errors, logsnr, space))
        assert votes.tolist() == [[0, 1001]] * 3


@settings(max_examples=60, deadline=None)
@given(errors_and_logsnr(), st.randoms(use_true_random=False))
def test_permuting_classes_permutes_votes_and_means(drawn, random):
    errors, logsnr = drawn
    order = list(range(errors.shape[1]))
    random.shuffle(order)
    assert np.allclose(majority_vote(errors[:, order]), majority_vote(errors)[:, order])
    moved = mean_error(errors[:, order], logsnr, "x")
    assert np.allclose(moved, mean_error(errors, logsnr, "x")[:, order], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(errors_and_logsnr())
def test_votes_add_up_and_entropy_stays_in_its_range(drawn):
    errors, _ = drawn
    votes = majority_vote(errors)
    assert np.allclose(votes.sum(axis=1), errors.shape[2])
    assert np.allclose(majority_vote(errors, ties="lowest").sum(axis=1), errors.shape[2])
    entropy = vote_entropy(vote_share(votes))
    assert (entropy >= 0).all()
    assert (entropy <= np.log2(errors.shape[1]) + 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(errors_and_logsnr())
def test_v_is_the_sum_of_eps_and_x_errors(drawn):
    errors, logsnr = drawn
    parts = to_space(errors, logsnr, "eps") + to_space(errors, logsnr, "x")
    assert np.allclose(parts, errors, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(errors_and_logsnr())
def test_trials_that_were_not_run_change_nothing(drawn):
    errors, logsnr = drawn
    padded = np.concatenate([errors, np.full_like(errors[..., :1], np.nan)], axis=2)
    longer = np.concatenate([logsnr, np.zeros_like(logsnr[:, :1])], axis=1)
    assert np.allclose(majority_vote(padded), majority_vote(errors), rtol=1e-12)
    means = mean_error(padded, longer, "eps")
    assert np.allclose(means, mean_error(errors, logsnr, "eps"), rtol=1e-12)
    assert np.array_equal(predict_mean(means)[0], means.argmin(axis=1))
