"""The voting rules on tables small enough to check by hand."""

import numpy as np
import pytest

from diffdx.classification.voting import (
    count_tied_trials,
    count_trials,
    majority_vote,
    mean_error,
    predict_mean,
    predict_vote,
    to_space,
    trial_votes,
    vote_entropy,
    vote_share,
)

INF, NAN = np.inf, np.nan


def table(*classes):
    """Errors of one image, a row per class."""
    return np.array([classes], np.float32)


def test_a_class_gets_one_vote_for_each_trial_it_denoises_best():
    errors = table([1, 5, 2, 9], [2, 4, 3, 8], [3, 6, 1, 9])
    assert majority_vote(errors).tolist() == [[1, 2, 1]]
    assert predict_vote(majority_vote(errors))[0].tolist() == [1]


@pytest.mark.parametrize(("ties", "votes"), [("split", [1.5, 1.5]), ("lowest", [2, 1])])
def test_a_tied_trial_is_split_or_goes_to_the_lowest_class(ties, votes):
    errors = table([1, 3, 2], [1, 4, 1])
    assert majority_vote(errors, ties=ties).tolist() == [votes]
    assert count_tied_trials(errors).tolist() == [1]


def test_a_tied_vote_is_reported_and_goes_to_the_lowest_class():
    three_way = majority_vote(table([1, 1], [1, 1], [1, 1]))
    label, tied = predict_vote(np.concatenate([three_way, [[0, 1, 1]], [[0, 1, 2]]]))
    assert label.tolist() == [0, 1, 2]
    assert tied.tolist() == [True, True, False]


def test_an_eliminated_class_wins_nothing_and_a_trial_not_run_has_no_vote():
    errors = table([1, INF, NAN], [2, 3, NAN])
    assert trial_votes(errors)[0].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert count_trials(errors).tolist() == [2]
    assert mean_error(errors, np.zeros((1, 3), np.float32))[0].tolist() == [INF, 2.5]


def test_the_mean_rule_takes_the_smallest_mean_and_reports_ties():
    errors = np.concatenate([table([1, 9], [3, 3]), table([2, 4], [3, 3])])
    label, tied = predict_mean(mean_error(errors, np.zeros((2, 2), np.float32)))
    assert label.tolist() == [1, 0]
    assert tied.tolist() == [False, True]


def test_spaces_scale_errors_by_alpha_and_sigma_squared():
    errors, logsnr = table([2.0, 2.0], [4.0, 4.0]), np.array([[0.0, np.log(3.0)]])
    assert to_space(errors, logsnr, "v") == pytest.approx(errors)
    # alpha^2 = 1/2 and 3/4.
    assert to_space(errors, logsnr, "eps")[0] == pytest.approx(np.array([[1, 1.5], [2, 3]]))
    assert to_space(errors, logsnr, "x")[0] == pytest.approx(np.array([[1, 0.5], [2, 1]]))


def test_entropy_is_zero_when_unanimous_and_log2_k_when_even():
    share = vote_share(np.array([[5.0, 0, 0, 0], [2, 2, 2, 2], [3, 1, 0, 0]]))
    expected = [0, 2, -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))]
    assert vote_entropy(share) == pytest.approx(expected)
    assert not np.signbit(vote_entropy(share)).any()


def test_no_images_give_no_votes():
    errors, logsnr = np.empty((0, 3, 5), np.float32), np.empty((0, 5), np.float32)
    votes = majority_vote(errors)
    assert votes.shape == (0, 3)
    assert predict_vote(votes)[0].shape == (0,)
    assert predict_mean(mean_error(errors, logsnr))[0].shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: majority_vote(table([1, INF], [2, INF])), "no finite error"),
        (lambda: majority_vote(table([1, NAN], [2, 3])), "some classes only"),
        (lambda: vote_share(np.zeros((1, 2))), "no votes"),
        (lambda: predict_vote(np.zeros((1, 2))), "no votes"),
        (lambda: vote_entropy(np.array([[3.0, 2.0]])), "vote_share"),
        (lambda: vote_entropy(np.array([[1.5, -0.5]])), "vote_share"),
        (lambda: mean_error(table([NAN], [NAN]), np.zeros((1, 1))), "no trial"),
        (lambda: predict_mean(np.array([[INF, INF]])), "no finite mean"),
    ],
)
def test_meaningless_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
