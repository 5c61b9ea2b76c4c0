"""Image files -> arrays of stored pixels: uint8 or uint16, grey (H, W) or RGB (H, W, 3).

A file is judged by its content, never by its name, and only PNG, JPEG, TIFF, BMP and DICOM are
opened; for DICOM see `data.dicom_worker`. Every way to fail is a `DataError` that names the file,
so that a batch can turn it into an error row.

| stored as                     | read as                                                          |
|-------------------------------|------------------------------------------------------------------|
| grey 1 or 8 bit               | (H, W) uint8, 1 bit as 0 / 255                                   |
| grey 16 bit                   | (H, W) uint16, full range; a TIFF with white as zero is inverted |
| grey 32 bit, integer or float | (H, W) uint16, its own minimum to maximum: no range is declared  |
| RGB, palette, YCbCr           | (H, W, 3) uint8; 16 bit colour keeps its upper 8 bits            |
| with transparency             | composited over black                                            |
| CMYK                          | RGB without an ink profile, with a warning                       |
"""

import os
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from diffdx._typing import Pixels
from diffdx.data.dicom import HEAD_BYTES, is_dicom, lacks_preamble, read_dicom
from diffdx.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 8
MAX_ASPECT = 8.0

_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


def read_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, frame: int | None = None
) -> Pixels:
    """Return the stored pixels of one image file, upright, by the rules at the head of this module.

    Args:
        path: Any path; only a regular file is opened, so that a pipe cannot block.
        max_pixels: Largest width times height that is decoded, checked on the header alone. Pillow
            itself refuses more than 179 million.
        frame: Which frame of a file that holds several, from 0.

    Returns:
        Pixels (H, W) or (H, W, 3), uint8 in 0..255 or uint16 in 0..65535.

    Raises:
        DataError: if the file is no image of the five formats, is damaged or cut short (half an
            image is never returned), is too large, too small or too elongated to be resized with
            sense, has several frames and `frame` does not choose one, or holds no contrast or
            non-finite values.
        ConfigError: for DICOM, if the extra `dicom` is not installed.
    """
    with _open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    if is_dicom(head):
        pixels = read_dicom(path, max_pixels=max_pixels, frame=frame)
        _check_size((pixels.shape[1], pixels.shape[0]), path, max_pixels)
    else:
        pixels = _read_picture(path, head, max_pixels, frame)
    if pixels.min() == pixels.max():
        raise DataError(f"{str(path)!r}: no contrast, every pixel is the same; replace the file")
    return pixels


def _read_picture(path: str | Path, head: bytes, max_pixels: int, frame: int | None) -> Pixels:
    with _open_regular(path) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            _choose_frame(image, path, frame)
            _check_size(image.size, path, max_pixels)
            white_is_zero = _is_white_zero(image)
            image.load()
            return _to_array(ImageOps.exif_transpose(image), path, white_is_zero)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            if lacks_preamble(head):
                raise DataError(
                    f"{str(path)!r}: DICOM data without the preamble of a DICOM file; "
                    "write it again as a file"
                ) from error
            raise DataError(
                f"{str(path)!r}: not an image of a known format ({', '.join(FORMATS)}, DICOM); "
                "convert it or remove it from the input"
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{str(path)!r}: the header claims too many pixels; scale the image down"
            ) from error
        except Exception as error:  # decoders raise nearly any built-in type on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{str(path)!r}: damaged image ({reason}); replace the file") from error


def _open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file; without O_NONBLOCK the open itself would wait for a pipe's writer."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        file = open(path, "rb", opener=without_waiting)  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{str(path)!r}: cannot be opened ({reason}); check the path") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{str(path)!r}: not a regular file; give the path of an image file")
    return file


def _choose_frame(image: Image.Image, path: str | Path, frame: int | None) -> None:
    num_frames = int(getattr(image, "n_frames", 1))
    if frame is None and num_frames > 1:
        raise DataError(f"{str(path)!r}: holds {num_frames} frames; choose one with --frame N")
    if frame is not None and not 0 <= frame < num_frames:
        raise DataError(
            f"{str(path)!r}: has no frame {frame}; --frame must be from 0 to {num_frames - 1}"
        )
    if frame:
        image.seek(frame)


def _check_size(size: tuple[int, int], path: str | Path, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DataError(
            f"{str(path)!r}: {width} x {height} pixels are over the limit of {max_pixels}; "
            "scale the image down"
        )
    if min(size) < MIN_SIDE_PX:
        raise DataError(
            f"{str(path)!r}: {width} x {height} pixels are too small; "
            f"each side needs at least {MIN_SIDE_PX}"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise DataError(
            f"{str(path)!r}: {width} x {height} pixels are too elongated (aspect over "
            f"{MAX_ASPECT:g}); crop the image"
        )


def _is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF stores white as 0; Pillow undoes that for 8 bit images only."""
    tags: Any = getattr(image, "tag_v2", {})
    return bool(tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _to_array(image: Image.Image, path: str | Path, white_is_zero: bool) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        deep = np.array(image).astype(np.uint16)
        return ~deep if white_is_zero else deep
    if mode in ("I", "F"):
        scaled = _scale_to_16_bit(np.asarray(image, dtype=np.float64), path)
        return ~scaled if white_is_zero else scaled
    if image.has_transparency_data:
        grey = mode in ("1", "L", "LA", "La")
        return _over_black(np.asarray(image.convert("LA" if grey else "RGBA")))
    if mode == "CMYK":
        warnings.warn(f"{str(path)!r}: CMYK converted to RGB without an ink profile", stacklevel=3)
    return np.array(image.convert("L" if mode in ("1", "L") else "RGB"))


def _scale_to_16_bit(values: npt.NDArray[np.float64], path: str | Path) -> npt.NDArray[np.uint16]:
    if not np.isfinite(values).all():
        raise DataError(f"{str(path)!r}: non-finite pixel values (NaN or Inf); replace the file")
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, dtype=np.uint16)
    # Halved before subtracting: the range of two large floats may itself overflow.
    share = (values / 2 - low / 2) / (high / 2 - low / 2)
    scaled: npt.NDArray[np.uint16] = np.rint(share * 65535).astype(np.uint16)
    return scaled


def _over_black(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    opacity = pixels[..., -1:] / 255.0
    colour = np.rint(pixels[..., :-1] * opacity).astype(np.uint8)
    return colour.squeeze(-1) if colour.shape[-1] == 1 else colour
