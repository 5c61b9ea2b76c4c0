"""Images in model range as pictures to look at: grids and PNG files."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffdx._files import atomic_path
from diffdx._tensors import Images
from diffdx.transforms.pixels import to_uint8


def grid_image(x: Images, columns: int) -> UInt8[np.ndarray, "rows columns C"]:
    """Return images in model range as one uint8 picture with this many columns.

    Raises:
        ValueError: if the images do not fill the rows.
    """
    pixels = to_uint8(x.float().cpu().numpy())
    count, channels, height, width = pixels.shape
    if count % columns:
        raise ValueError(f"{count} images do not fill rows of {columns}")
    rows = count // columns
    grid = pixels.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def write_png(path: Path, pixels: UInt8[np.ndarray, "H W C"]) -> None:
    """Write a grey or RGB picture as PNG in one piece."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(temporary)
