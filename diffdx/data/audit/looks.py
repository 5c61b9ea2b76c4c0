"""What the audit sees of every image, in one pass and 350 bytes an image.

Each image is read once, large JPEGs at a fraction of their size, and reduced to a grid of 32 x 32.
Kept are the size, the kind of file, the colour of the whole and of the edge, and the spectrum

    c = DCT2(grey grid)[u, v],  0 <= u, v < 8 and (8, 0), without (0, 0),     |c| = 1

of which duplicates are found: brightness and contrast do not enter.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Shaped
from PIL import Image, ImageOps
from scipy.fft import dctn

from diffdx._files import atomic_path
from diffdx._typing import Pixels
from diffdx.data.dataset import Dataset, Record
from diffdx.data.images import MAX_PIXELS
from diffdx.errors import DataError

GRID = 32
DARK = 16.0
"""Grey level of 255 below which an edge is a black frame."""
NUM_WAVES = 64
LOOK = np.dtype(
    [
        ("seen", "?"),
        ("width", "i4"),
        ("height", "i4"),
        ("kind", "U16"),
        ("dark", "f4"),
        ("colour", "f4", 3),
        ("edge", "f4", 3),
        ("spectrum", "f4", NUM_WAVES),
        ("digest", "u8"),
    ]
)
_LARGE_SIDE_PX = 512
_VERSION = 1


def look_at_all(
    dataset: Dataset,
    *,
    cache: Path | None = None,
    seconds: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Shaped[np.ndarray, "n"]:
    """Return what is seen of every image, in the dataset's order; `seen` is False if unreadable.

    Args:
        dataset: Images.
        cache: Folder where a finished pass is kept by the data's fingerprint.
        seconds: Stop after so long; images are taken in random order, so that those seen are a
            sample. An unfinished pass is not kept.
        progress: Called with (images done, images in all).
    """
    kept = cache and cache / f"{dataset.fingerprint}-{_VERSION}.npy"
    if kept and kept.is_file():
        looks: Shaped[np.ndarray, n] = np.load(kept)
        return _ordered(looks, dataset)
    looks = np.zeros(len(dataset), dtype=LOOK)
    started = time.monotonic()
    order = np.random.default_rng(0).permutation(len(dataset))
    done = 0
    for done, i in enumerate(order, start=1):
        look_at(dataset, dataset.records[i], looks[i : i + 1])
        progress(done, len(dataset))
        if seconds is not None and time.monotonic() - started > seconds:
            break
    if kept and done == len(dataset):
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.save(file, looks[_sorted(dataset)])
    return looks


def look_at(dataset: Dataset, record: Record, look: npt.NDArray[Any]) -> None:
    """Write what is seen of an image into `look`; leave it unseen if it cannot be read."""
    try:
        pixels, (width, height), kind = _reduced(dataset, record)
    except DataError:
        return
    grid = _grid(pixels)
    grey = to_grey(grid)
    edge = np.concatenate([grid[0], grid[-1], grid[1:-1, 0], grid[1:-1, -1]])
    look["seen"], look["width"], look["height"], look["kind"] = True, width, height, kind
    look["dark"] = (edge.max(axis=1) < DARK).mean()
    look["colour"], look["edge"] = grid.mean(axis=(0, 1)), edge.mean(axis=0)
    waves = dctn(grey, norm="ortho")[:9, :9].ravel()[1 : NUM_WAVES + 1]
    look["spectrum"] = waves / max(float(np.linalg.norm(waves)), 1e-9)
    seen = np.rint(grid).astype(np.uint8).tobytes() + bytes(f"{width} {height}", "ascii")
    look["digest"] = np.frombuffer(hashlib.sha256(seen).digest()[:8], dtype=np.uint64)[0]


def to_grey(colour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the luminance (ITU-R 601), as Pillow turns colour into grey."""
    grey: npt.NDArray[np.float64] = colour @ np.array([0.299, 0.587, 0.114])
    return grey


def _grid(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return the colours, 0..255, at 32 x 32: (32, 32, 3)."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels).convert("RGB")
    return np.asarray(image.resize((GRID, GRID), Image.Resampling.BILINEAR), dtype=np.float64)


def _reduced(dataset: Dataset, record: Record) -> tuple[Pixels, tuple[int, int], str]:
    """Return an image, reduced if that saves time, its size as stored, and its kind of file.

    Raises:
        DataError: if it cannot be read.
    """
    kind = "none"
    if os.path.isfile(record.path):
        try:
            with Image.open(record.path) as image:
                kind, size = f"{image.format} {image.mode}", image.size
                if image.format == "JPEG" and _LARGE_SIDE_PX < max(size) <= MAX_PIXELS / min(size):
                    image.draft(None, (4 * GRID, 4 * GRID))
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                    return np.asarray(upright), size, kind
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            kind = "other"  # a kind that Pillow does not know, or damage that the reader will name
    pixels = dataset.pixels(record)
    return pixels, (pixels.shape[1], pixels.shape[0]), kind


def _sorted(dataset: Dataset) -> npt.NDArray[np.intp]:
    return np.argsort(np.array([record.image_id for record in dataset.records], dtype=object))


def _ordered(looks: Shaped[np.ndarray, "n"], dataset: Dataset) -> Shaped[np.ndarray, "n"]:
    """Return looks kept in the order of image ids in the dataset's: the fingerprint knows none."""
    ordered = np.empty_like(looks)
    ordered[_sorted(dataset)] = looks
    return ordered
