"""Decoded pixels to network input: equal to float arithmetic, whatever the integers are."""

import numpy as np
import pytest
from PIL import Image

from diffdx.transforms.pictures import grid_image, write_png
from diffdx.transforms.pixels import PixelSpec, to_model_range, to_uint8


def picture(height, width, top, dtype, channels=None, seed=0):
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, top + 1, shape).astype(dtype)


def resized(plane, size):
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_model_range_equals_a_float_reference(dtype, top):
    pixels = picture(40, 24, top, dtype)
    stored = PixelSpec(16).store(pixels)
    assert stored.dtype == dtype
    x = to_model_range(stored)
    assert x.dtype == np.float32
    reference = 2 * np.clip(resized(pixels, (16, 16)), 0, top) / top - 1
    # Rounding to an integer moves a value by half a step, that is 1 / top in model range.
    np.testing.assert_allclose(x[0], reference, atol=1.001 / top + 1e-6)
    assert x.min() >= -1
    assert x.max() <= 1


def test_the_ends_of_the_integer_range_are_exact():
    for dtype in (np.uint8, np.uint16):
        ends = np.array([0, np.iinfo(dtype).max], dtype=dtype)
        np.testing.assert_allclose(to_model_range(ends), [-1, 1], atol=1e-7)


def test_a_16_bit_image_equals_its_8_bit_twin():
    eight = picture(32, 32, 255, np.uint8)
    sixteen = eight.astype(np.uint16) * np.uint16(257)
    spec = PixelSpec(16)
    a, b = to_model_range(spec.store(eight)), to_model_range(spec.store(sixteen))
    # Half an 8-bit step of rounding, plus half a 16-bit one.
    np.testing.assert_allclose(a, b, atol=1 / 255 + 1 / 65535)
    same_size = PixelSpec(32)
    np.testing.assert_allclose(
        to_model_range(same_size.store(eight)), to_model_range(same_size.store(sixteen)), atol=1e-6
    )


def test_grey_stored_as_colour_equals_grey():
    grey = picture(20, 20, 255, np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(PixelSpec(16).store(colour), PixelSpec(16).store(grey))
    for_colour = PixelSpec(16, channels=3)
    np.testing.assert_array_equal(for_colour.store(colour), for_colour.store(grey))


def test_colour_becomes_its_luma():
    colour = picture(16, 16, 255, np.uint8, channels=3)
    stored = PixelSpec(16).store(colour)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(stored[0], luma, atol=0.5 + 1e-3)


def test_colour_keeps_its_channels_in_order():
    colour = np.zeros((16, 16, 3), dtype=np.uint8)
    colour[..., 0], colour[..., 2] = 200, 10
    stored = PixelSpec(8, channels=3).store(colour)
    assert [int(np.unique(plane).item()) for plane in stored] == [200, 0, 10]


def test_pad_keeps_the_aspect_and_squash_does_not():
    wide = np.full((16, 32), 255, dtype=np.uint8)
    padded = PixelSpec(16, resize="pad").store(wide)[0]
    assert (padded[4:12] == 255).all()
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()
    assert (PixelSpec(16).store(wide) == 255).all()
    square = picture(24, 24, 255, np.uint8)
    np.testing.assert_array_equal(
        PixelSpec(16, resize="pad").store(square), PixelSpec(16).store(square)
    )


def test_the_thinnest_image_still_leaves_a_line():
    padded = PixelSpec(8, resize="pad").store(np.full((1, 64), 255, dtype=np.uint8))
    assert (padded == 255).any(axis=2).sum() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool])
def test_pixels_of_unknown_range_are_refused(dtype):
    with pytest.raises(ValueError, match="uint8 or uint16"):
        PixelSpec(16).store(np.ones((16, 16), dtype=dtype))


def test_display_values_invert_model_range_and_are_clipped():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_model_range(every)), every)
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 3.0])), [0, 255])


def test_a_grid_goes_row_by_row_and_is_written_losslessly(tmp_path):
    import torch

    values = torch.linspace(-1, 1, 6)
    x = values.view(6, 1, 1, 1).expand(6, 1, 2, 2)
    grid = grid_image(x, 3)
    expected = to_uint8(values.numpy()).reshape(2, 3).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(grid[..., 0], expected)
    write_png(tmp_path / "grid.png", grid)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grid.png")), expected)
    write_png(tmp_path / "colour.png", grid_image(x.expand(6, 3, 2, 2), 2))
    assert Image.open(tmp_path / "colour.png").mode == "RGB"
    with pytest.raises(ValueError, match="do not fill rows of 4"):
        grid_image(x, 4)
