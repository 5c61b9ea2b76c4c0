"""What every metric promises: weights repeat images; order and scale of scores do not matter."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdx.metrics import accuracy, auroc, balanced_accuracy, f1

K = 3
METRICS: dict[str, Callable[..., float]] = {
    "accuracy": lambda y, s, w: accuracy(y, s.argmax(axis=1), weights=w),
    "balanced_accuracy": lambda y, s, w: balanced_accuracy(
        y, s.argmax(axis=1), num_classes=K, weights=w
    ),
    "f1": lambda y, s, w: f1(y, s.argmax(axis=1), num_classes=K, weights=w),
    "f1_of_one": lambda y, s, w: f1(y, s.argmax(axis=1), num_classes=K, positive=2, weights=w),
    "auroc": lambda y, s, w: auroc(y, s, weights=w),
    "auroc_of_one": lambda y, s, w: auroc(y, s, positive=2, weights=w),
}
cases = st.integers(0, 2**32 - 1)


def _case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    return (
        rng.integers(K, size=n),
        rng.integers(5, size=(n, K)) / 4,
        rng.integers(0, 4, size=n).astype(float),
    )


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=40, deadline=None)
@given(seed=cases)
def test_a_weight_repeats_an_image(name: str, seed: int) -> None:
    y, scores, weights = _case(seed)
    repeats = weights.astype(int)
    expected = METRICS[name](y.repeat(repeats), scores.repeat(repeats, axis=0), None)
    np.testing.assert_allclose(METRICS[name](y, scores, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=40, deadline=None)
@given(seed=cases)
def test_order_of_the_images_does_not_matter(name: str, seed: int) -> None:
    y, scores, weights = _case(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    expected = METRICS[name](y, scores, weights)
    np.testing.assert_allclose(
        METRICS[name](y[order], scores[order], weights[order]), expected, rtol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(seed=cases)
def test_auroc_sees_ranks_only_and_turns_over_with_the_sign(seed: int) -> None:
    y, scores, weights = _case(seed)
    area = auroc(y, scores, positive=1, weights=weights)
    np.testing.assert_allclose(
        auroc(y, np.exp(3 * scores), positive=1, weights=weights), area, rtol=1e-12
    )
    np.testing.assert_allclose(auroc(y, -scores, positive=1, weights=weights), 1 - area, atol=1e-12)
