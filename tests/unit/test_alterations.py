"""Altered copies: each change is what it says, and a function of seed and image alone."""

import numpy as np
import pytest

from diffdx.data.alterations import Alteration, altered_copies
from diffdx.data.phantoms import open_phantoms


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, size=(40, 60), dtype=np.uint8)


def test_the_default_changes_nothing(pixels):
    for image in (pixels, np.stack([pixels] * 3, axis=2), pixels.astype(np.uint16) * 257):
        same = Alteration().apply(image)
        assert same.dtype == image.dtype
        np.testing.assert_array_equal(same, image)


def test_brightness_is_a_power_of_the_share(pixels):
    np.testing.assert_allclose(
        Alteration(gamma=2.0).apply(pixels), 255 * (pixels / 255.0) ** 2, atol=0.5
    )


def test_contrast_scales_distances_from_mid_grey(pixels):
    lower = Alteration(contrast=0.5).apply(pixels).astype(float)
    np.testing.assert_allclose(lower - 127.5, 0.5 * (pixels - 127.5), atol=0.5)


def test_a_crop_takes_the_same_part_of_each_side(pixels):
    np.testing.assert_array_equal(Alteration(crop=0.1).apply(pixels), pixels[4:-4, 6:-6])


def test_a_blur_keeps_the_sum_and_channels_apart():
    point = np.zeros((65, 65, 3), dtype=np.uint16)
    point[32, 32, 1] = 65535
    blurred = Alteration(blur=2 / 65).apply(point).astype(float)
    assert abs(blurred.sum() / 65535 - 1) < 1e-2  # rounding of some hundred faint pixels
    assert blurred[..., [0, 2]].sum() == 0
    rows = np.arange(65) - 32.0
    share = blurred[..., 1] / blurred[..., 1].sum()
    assert abs((share.sum(axis=1) * rows**2).sum() - 4) < 0.05


def test_copies_depend_on_seed_and_image_alone_and_keep_the_records():
    dataset = open_phantoms("lesion?n=6")
    copies, others = altered_copies(dataset, seed=0), altered_copies(dataset, seed=1)
    assert copies.records == dataset.records
    assert any("altered" in warning for warning in copies.warnings)
    assert len({data.fingerprint for data in (dataset, copies, others)}) == 3
    alone = copies.subset(copies.records[3:4])
    for record in copies.records[3:4]:
        np.testing.assert_array_equal(alone.pixels(record), copies.pixels(record))
        assert not np.array_equal(copies.pixels(record), others.pixels(record))
        assert copies.mask(record) is None
