"""However odd an image file is (faults 1 to 15), the end is right pixels or a DataError."""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from diffdx.data.images import read_image
from diffdx.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 20), dtype=np.uint16)


def save(tmp_path, array, name="image.png", **options):
    path = tmp_path / name
    Image.fromarray(array).save(path, **options)
    return path


def png_header(width, height):
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", zlib.compress(b""))


def png_chunk(name, content):
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


@pytest.mark.parametrize("name", ["image.png", "image.bmp", "image.tif", "SCAN.PNG"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_files_give_back_the_pixels_that_were_stored(tmp_path, array, name):
    pixels = read_image(save(tmp_path, array, name))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, array)


def test_jpeg_is_read_as_stored(tmp_path):
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    pixels = read_image(save(tmp_path, smooth, "image.jpg", quality=100, subsampling=0))
    # At quality 100 all quantisation steps are 1: rounding 64 DCT terms moves a pixel by 4 at most.
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("name", ["scan.dat", "scan", "scan.jpg"])
def test_the_content_decides_not_the_name(tmp_path, name):
    path = save(tmp_path, GREY).rename(tmp_path / name)
    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_16_bit_grey_keeps_its_full_range(tmp_path, name):
    pixels = read_image(save(tmp_path, DEEP, name))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, DEEP)


@pytest.mark.parametrize("array", [GREY, DEEP], ids=["8 bit", "16 bit"])
def test_tiff_with_white_as_zero_is_inverted_at_every_depth(tmp_path, array):
    path = save(tmp_path, array, "image.tif", tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    stored = np.frombuffer(raw_tiff_strip(path), dtype=array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(read_image(path), np.iinfo(array.dtype).max - stored)


def raw_tiff_strip(path):
    with Image.open(path) as image:
        (offset,), (count,) = image.tag_v2[273], image.tag_v2[279]
    return path.read_bytes()[offset : offset + count]


def test_float_tiff_is_scaled_from_its_minimum_to_its_maximum(tmp_path):
    values = RNG.normal(size=(12, 20)).astype(np.float32)
    pixels = read_image(save(tmp_path, values, "image.tif"))
    exact = (values.astype(float) - values.min()) / (float(values.max()) - values.min()) * 65535
    assert np.abs(pixels - exact).max() <= 0.5 + 1e-6


def test_float_tiff_over_the_whole_float_range_does_not_overflow(tmp_path):
    values = np.full((12, 20), np.finfo(np.float32).max, dtype=np.float32)
    values[0] *= -1
    pixels = read_image(save(tmp_path, values, "image.tif"))
    assert pixels[0].max() == 0
    assert pixels[1:].min() == 65535


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_float_tiff_is_refused(tmp_path, bad):
    values = np.ones((12, 20), dtype=np.float32)
    values[3, 4] = bad
    with pytest.raises(DataError, match="non-finite"):
        read_image(save(tmp_path, values, "image.tif"))


def test_palette_gives_its_colours(tmp_path):
    few = np.zeros((12, 20, 3), dtype=np.uint8)
    few[:, 5:] = (200, 10, 30)
    path = tmp_path / "image.png"
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    np.testing.assert_array_equal(read_image(path), few)


def test_one_bit_becomes_0_and_255(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(GREY > 127).save(path)
    np.testing.assert_array_equal(read_image(path), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_black(tmp_path, mode):
    alpha = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
    base = Image.fromarray(RGB if mode == "RGBA" else GREY)
    base.putalpha(Image.fromarray(alpha))
    path = tmp_path / "image.png"
    base.save(path)
    colour = RGB if mode == "RGBA" else GREY
    share = alpha[..., None] / 255 if mode == "RGBA" else alpha / 255
    np.testing.assert_array_equal(read_image(path), np.rint(colour * share))


def test_a_transparent_grey_level_becomes_black(tmp_path):
    grey = np.tile(np.arange(20, dtype=np.uint8) + 10, (12, 1))
    pixels = read_image(save(tmp_path, grey, transparency=15))
    np.testing.assert_array_equal(pixels, np.where(grey == 15, 0, grey))


def test_cmyk_is_converted_with_a_warning(tmp_path):
    path = tmp_path / "image.tif"
    Image.fromarray(RGB).convert("CMYK").save(path)
    with pytest.warns(UserWarning, match="CMYK"):
        np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("array", "name"), [(RGB, "a.png"), (GREY, "a.tif"), (DEEP, "a.tif")])
def test_exif_orientation_is_applied(tmp_path, array, name, orientation):
    # The stored array is the upright one, moved back (EXIF 2.32, tag 0x0112).
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo(array))
    np.testing.assert_array_equal(read_image(save(tmp_path, stored, name, exif=exif)), array)


@pytest.mark.parametrize("content", [b"", b"just some text", b"%PDF-1.7", b"8BPS\0\1", b"<svg/>"])
def test_what_is_no_image_of_the_four_formats_is_refused(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an image"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "eps", "ppm"])
def test_formats_that_pillow_could_read_but_are_not_allowed_are_refused(tmp_path, suffix):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path, format=suffix)
    with pytest.raises(DataError, match="not an image"):
        read_image(path)


@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.bmp", "image.tif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused_and_never_half_read(tmp_path, name, kept):
    noise = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path, noise, name)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(DataError, match=r"image\."):
        read_image(path)


def test_a_header_of_60000_x_60000_is_refused_without_decoding(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png_header(60000, 60000))
    tracemalloc.start()
    with pytest.raises(DataError, match="too many pixels"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_of_144_megapixels_is_refused_by_our_own_limit(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png_header(12000, 12000))
    with pytest.raises(DataError, match="over the limit of 100000000"):
        read_image(path)


def test_the_pixel_limit_can_be_set(tmp_path):
    path = save(tmp_path, GREY)
    np.testing.assert_array_equal(read_image(path, max_pixels=240), GREY)
    with pytest.raises(DataError, match="20 x 12 pixels are over the limit of 239"):
        read_image(path, max_pixels=239)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 1), "too small"), ((2, 4000), "too small"), ((8, 65), "elongated")]
)
def test_sizes_that_cannot_be_resized_with_sense_are_refused(tmp_path, shape, message):
    with pytest.raises(DataError, match=message):
        read_image(save(tmp_path, RNG.integers(0, 256, shape, dtype=np.uint8)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_image_is_refused(tmp_path, dtype):
    with pytest.raises(DataError, match="no contrast"):
        read_image(save(tmp_path, np.full((12, 20), 7, dtype=dtype), "image.tif"))


def test_a_file_of_several_frames_needs_a_choice(tmp_path):
    path = tmp_path / "stack.tif"
    frames = [Image.fromarray(a) for a in (GREY, GREY[::-1].copy())]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 frames; choose one with --frame"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, frame=0), GREY)
    np.testing.assert_array_equal(read_image(path, frame=1), GREY[::-1])
    for absent in (2, -1):
        with pytest.raises(DataError, match="no frame"):
            read_image(path, frame=absent)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    loop, pipe = tmp_path / "loop", tmp_path / "pipe"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="not a regular file"):
        read_image(pipe)
    for path in (loop, tmp_path, tmp_path / "absent", "nul\0byte", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="cannot be opened"):
            read_image(path)


def test_odd_names_are_read_and_named_on_one_line(tmp_path):
    for name in ("two\nlines.png", "Thorax-ü-胸.png", "x" * 251 + ".png"):
        path = save(tmp_path, GREY).rename(tmp_path / name)
        np.testing.assert_array_equal(read_image(path), GREY)
        path.write_bytes(b"")
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
