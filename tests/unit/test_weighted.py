"""The weighted statistic: equal to its definition, whole or with trials missing."""

import numpy as np
import pytest

from diffdx.classification.rules import apply_rule
from diffdx.classification.voting import to_space
from diffdx.classification.weighted import (
    LogSNRWeights,
    binned_differences,
    error_differences,
    quantile_edges,
    trial_costs,
    weighted_scores,
)

RNG = np.random.default_rng(0)
B, K, N = 6, 3, 40
ERRORS = RNG.uniform(0.1, 1.0, (B, K, N))
LOGSNR = RNG.uniform(-8, 8, (B, N))
WEIGHTS = LogSNRWeights((-4.0, 0.0, 4.0), (1.0, 0.5, 2.0, 0.0), (0.1, -0.3, 0.2))


def by_definition(errors, logsnr):
    scores = np.zeros(errors.shape[:2])
    edges = [-np.inf, *WEIGHTS.edges, np.inf]
    for b, k in np.ndindex(*scores.shape):
        scores[b, k] = WEIGHTS.biases[k]
        for w, low, high in zip(WEIGHTS.weights, edges, edges[1:], strict=False):
            trials = (logsnr[b] >= low) & (logsnr[b] < high) & ~np.isnan(errors[b, 0])
            if trials.any():
                others = np.delete(errors[b], k, axis=0)[:, trials].mean(axis=0)
                scores[b, k] += w * (others - errors[b, k, trials]).mean()
    return scores


def some_trials_missing():
    errors = ERRORS.copy()
    for b in range(B):
        errors[b, :, 3 + 2 * b :] = np.nan
    return errors


@pytest.mark.parametrize("errors", [ERRORS, some_trials_missing()], ids=["whole", "stopped"])
def test_it_is_the_sum_of_the_weighted_bin_means(errors):
    expected = by_definition(errors, LOGSNR)
    np.testing.assert_allclose(weighted_scores(errors, LOGSNR, WEIGHTS), expected, atol=1e-12)


def test_a_stop_adds_up_the_statistic_where_bins_hold_equally_many_trials():
    edges = tuple(np.linspace(-8, 8, len(WEIGHTS.weights) + 1)[1:-1])
    weights = LogSNRWeights(edges, WEIGHTS.weights, WEIGHTS.biases)
    bins, each = len(weights.weights), 4
    middle = np.linspace(-8, 8, 2 * bins + 1)[1::2]
    logsnr = np.tile(np.repeat(middle, each), (B, 1)).astype(np.float32)
    errors = np.random.default_rng(3).random((B, K, bins * each)).astype(np.float32)
    costs = trial_costs(weights)(errors, logsnr)
    np.testing.assert_allclose(
        -costs.mean(axis=2), weighted_scores(errors, logsnr, weights), atol=1e-9
    )
    errors[0, 1, 5:] = np.inf
    assert np.isinf(trial_costs(weights)(errors, logsnr)[0, 1, 5:]).all()


def test_classes_may_be_listed_in_any_order():
    order = [2, 0, 1]
    biases = tuple(WEIGHTS.biases[k] for k in order)
    weights = LogSNRWeights(WEIGHTS.edges, WEIGHTS.weights, biases)
    np.testing.assert_allclose(
        weighted_scores(ERRORS[:, order], LOGSNR, weights),
        weighted_scores(ERRORS, LOGSNR, WEIGHTS)[:, order],
        atol=1e-12,
    )


def test_weights_that_follow_a_space_make_the_mean_rule_of_that_space():
    fine = tuple(np.linspace(-8, 8, 4001)[1:-1])
    middle = np.linspace(-8, 8, 4001)[1:] - 0.002
    trials_of_bin = 1 / N  # one trial a bin at most, so a bin's mean is its trial's error
    alpha_squared = 1 / (1 + np.exp(-middle))
    weights = LogSNRWeights(fine, tuple(alpha_squared * trials_of_bin), (0.0,) * K)
    counts = np.stack([np.histogram(row, [-8, *fine, 8])[0] for row in LOGSNR])
    alone = (counts <= 1).all(axis=1)
    assert alone.any()
    mean = to_space(ERRORS, LOGSNR, "eps").mean(axis=2)
    expected = (mean.sum(axis=1, keepdims=True) - mean) / (K - 1) - mean
    # alpha^2 changes by at most 1/4 per nat: 0.002 nats move a score by less than 0.0005.
    np.testing.assert_allclose(
        weighted_scores(ERRORS, LOGSNR, weights)[alone], expected[alone], atol=5e-4
    )


def test_an_eliminated_class_loses_and_the_others_are_compared_without_it():
    errors = ERRORS.copy()
    errors[:, 1, 10:] = np.inf
    differences = error_differences(errors)
    np.testing.assert_allclose(differences[:, 0, 10:], errors[:, 2, 10:] - errors[:, 0, 10:])
    scores = weighted_scores(errors, LOGSNR, WEIGHTS)
    assert np.isneginf(scores[:, 1]).all()
    assert np.isfinite(scores[:, [0, 2]]).all()
    errors[:, 2, 10:] = np.inf
    assert (error_differences(errors)[:, 0, 10:] == 0).all()


def test_a_bin_without_trials_is_no_evidence():
    logsnr = np.full((B, N), 5.0)
    binned = binned_differences(ERRORS, logsnr, np.array(WEIGHTS.edges))
    assert (binned[:, :, :3] == 0).all()
    np.testing.assert_allclose(binned[:, :, 3], error_differences(ERRORS).mean(axis=2))


def test_quantile_edges_share_the_trials_evenly():
    edges = quantile_edges(LOGSNR, 8)
    counts = np.histogram(LOGSNR, [-8, *edges, 8])[0]
    assert counts.tolist() == [B * N // 8] * 8


def test_the_rule_takes_the_largest_score():
    decided = apply_rule("weighted", ERRORS, LOGSNR, weights=WEIGHTS)
    assert decided.y_hat.tolist() == by_definition(ERRORS, LOGSNR).argmax(axis=1).tolist()
    assert not decided.tied.any()
    even = LogSNRWeights(WEIGHTS.edges, WEIGHTS.weights, (0.0, 0.0, 0.0))
    assert apply_rule("weighted", np.ones((1, K, N)), LOGSNR[:1], weights=even).tied.all()


def test_weights_come_back_from_their_dictionary():
    assert LogSNRWeights.from_dict(WEIGHTS.as_dict()) == WEIGHTS


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="fitted to 3 classes, the errors have 2"):
        weighted_scores(ERRORS[:, :2], LOGSNR, WEIGHTS)
    with pytest.raises(ValueError, match="needs fitted weights"):
        apply_rule("weighted", ERRORS, LOGSNR)
