"""From a decoded image to model range, the same way in training and in classification.

    decoded (H, W) or (H, W, 3), uint8 or uint16
      -> stored (C, S, S), same integer type: colour model, then resize
      -> x (C, S, S) in [-1, 1], float32:  x = 2 stored / max - 1,  max = 255 or 65535

Grey to RGB repeats the channel; RGB to grey takes the luma .299 R + .587 G + .114 B.
`squash` resizes both sides to S without keeping the aspect (paper 3.1); `pad` keeps it and fills
the shorter side with black. Resizing is bicubic with antialiasing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from diffdx._typing import Pixels

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class PixelSpec:
    """How decoded images become network input.

    Attributes:
        size_px: Side S of the square, even.
        channels: 1 (grey) or 3 (RGB).
        resize: `squash` or `pad`.
    """

    size_px: int
    channels: Literal[1, 3] = 1
    resize: Literal["squash", "pad"] = "squash"

    def store(self, pixels: Pixels) -> Shaped[np.ndarray, "C S S"]:
        """Return the image in the model's size and colour model, still uint8 or uint16.

        Raises:
            ValueError: if pixels is not uint8 or uint16, since its range would be a guess.
        """
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
        planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        if self.channels == 1 and len(planes) == 3:
            if (planes[0] == planes[1]).all() and (planes[0] == planes[2]).all():
                planes = planes[:1]
            else:
                planes = np.tensordot(LUMA, planes.astype(np.float64), 1)[None]
        resized = np.stack([self._resize(p) for p in planes])
        top = np.iinfo(pixels.dtype).max
        stored: np.ndarray = np.clip(np.rint(resized), 0, top).astype(pixels.dtype)
        return stored.repeat(self.channels // len(stored), axis=0)

    def _resize(self, plane: Shaped[np.ndarray, "H W"]) -> Shaped[np.ndarray, "S S"]:
        image = Image.fromarray(plane.astype(np.float32))
        size = self.size_px
        if self.resize == "squash":
            return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        canvas = Image.new("F", (size, size))
        inside = image.resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(inside, ((size - width) // 2, (size - height) // 2))
        return np.asarray(canvas)


def to_model_range(stored: Shaped[np.ndarray, "*grid"]) -> Shaped[np.ndarray, "*grid"]:
    """Return 2 stored / max - 1 as float32 in [-1, 1], max being the integer type's."""
    top = np.float32(np.iinfo(stored.dtype).max)
    x: np.ndarray = stored.astype(np.float32) * (np.float32(2) / top) - np.float32(1)
    return x


def to_uint8(x: Shaped[np.ndarray, "*grid"]) -> Shaped[np.ndarray, "*grid"]:
    """Return images in model range as uint8 for display; values outside [-1, 1] are clipped."""
    shown: np.ndarray = np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)
    return shown
