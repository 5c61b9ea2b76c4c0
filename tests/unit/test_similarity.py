"""SSIM against its definition, written as plain sums over one window at a time."""

import numpy as np
import pytest

from diffdx.explain.similarity import mean_absolute_difference, ssim


def by_definition(a, b):
    i = np.arange(11) - 5
    row = np.exp(-(i**2) / (2 * 1.5**2))
    w = np.outer(row, row) / np.outer(row, row).sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for plane_a, plane_b in zip(a, b, strict=True):
        for r in range(plane_a.shape[0] - 10):
            for c in range(plane_a.shape[1] - 10):
                p, q = plane_a[r : r + 11, c : c + 11], plane_b[r : r + 11, c : c + 11]
                mu_p, mu_q = (w * p).sum(), (w * q).sum()
                var_p, var_q = (w * (p - mu_p) ** 2).sum(), (w * (q - mu_q) ** 2).sum()
                cov = (w * (p - mu_p) * (q - mu_q)).sum()
                values.append(
                    (2 * mu_p * mu_q + c1)
                    * (2 * cov + c2)
                    / ((mu_p**2 + mu_q**2 + c1) * (var_p + var_q + c2))
                )
    return np.mean(values)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = np.tanh(rng.normal(size=(2, 16, 19)))
    return a.astype(np.float32), np.clip(a + rng.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)


def test_ssim_is_its_definition(pair):
    assert ssim(*pair) == pytest.approx(by_definition(*pair), abs=1e-9)


def test_only_equal_images_have_an_ssim_of_one(pair):
    a, b = pair
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert ssim(a, b) < 0.99


def test_constant_images_leave_the_luminance_term():
    low, high = np.full((1, 12, 12), -0.5), np.full((1, 12, 12), 0.5)
    c1 = 0.02**2
    assert ssim(low, high) == pytest.approx((-0.5 + c1) / (0.5 + c1))


def test_structure_that_is_inverted_is_negative():
    stripes = (-1.0) ** np.arange(24)[None, None] * np.ones((1, 24, 1))
    assert ssim(stripes, -stripes) < -0.99


def test_more_noise_is_less_alike():
    rng = np.random.default_rng(1)
    image, noise = rng.normal(size=(2, 1, 32, 32)) * 0.3
    values = [ssim(image, image + s * noise) for s in (0.1, 0.5, 2)]
    assert values == sorted(values, reverse=True)


def test_an_image_below_one_window_is_refused():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(np.zeros((1, 10, 20)), np.zeros((1, 10, 20)))


def test_mean_absolute_difference(pair):
    a, b = pair
    assert mean_absolute_difference(a, b) == pytest.approx(np.mean(np.abs(a - b)), rel=1e-5)
    assert mean_absolute_difference(-np.ones((1, 2, 2)), np.ones((1, 2, 2))) == 2
