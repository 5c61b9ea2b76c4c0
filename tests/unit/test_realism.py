"""The kernel distance: unbiased between equals, its closed form between others."""

import numpy as np
import pytest

from diffdx.explain.realism import KernelDistance, standardised


def by_definition(a, b):
    def k(p, q):
        return (p @ q / len(p) + 1) ** 3

    n, m = len(a), len(b)
    aa = np.mean([k(a[i], a[j]) for i in range(n) for j in range(n) if i != j])
    bb = np.mean([k(b[i], b[j]) for i in range(m) for j in range(m) if i != j])
    return aa + bb - 2 * np.mean([k(p, q) for p in a for q in b])


def test_it_is_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(0.5, 1, size=(9, 5))
    assert KernelDistance(a, b)() == pytest.approx(by_definition(a, b))


def test_it_is_unbiased_between_equals_and_grows_with_a_shift():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(300, 2, 12, 6))
    same = [KernelDistance(a, b)() for a, b in draws]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))
    means = [np.mean([KernelDistance(a + s, b)() for a, b in draws]) for s in (0, 0.5, 1)]
    assert means == sorted(means)
    assert means[1] > 4 * np.std(same) / np.sqrt(len(same))


def test_weight_zero_is_an_image_left_out():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    weights = np.array([1, 1, 0, 1, 0, 1.0])
    left_out = KernelDistance(a[weights > 0], b)()
    assert KernelDistance(a, b)(weights) == pytest.approx(left_out)
    assert KernelDistance(b, a)(b_weights=weights) == pytest.approx(left_out)


def test_one_image_has_no_pair():
    a = np.random.default_rng(3).normal(size=(4, 3))
    assert np.isnan(KernelDistance(a[:1], a)())
    assert np.isnan(KernelDistance(a, a)(np.zeros(4)))


def test_standardised_features_have_one_unit_and_keep_their_proportions():
    rng = np.random.default_rng(4)
    reference = rng.normal(3, [1, 10, 0, 2], size=(50, 4))
    scaled = standardised(reference, reference)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    assert scaled.var(axis=0).mean() == pytest.approx(1)
    ratio = scaled.std(axis=0)[[0, 1, 3]] / reference.std(axis=0)[[0, 1, 3]]
    np.testing.assert_allclose(ratio, ratio[0])


def test_features_without_any_variation_are_only_centred():
    constant = np.full((3, 2), 7.0)
    np.testing.assert_array_equal(standardised(constant + 1, constant), np.ones((3, 2)))
