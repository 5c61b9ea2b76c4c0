"""Altered copies of images: as another scanner, processing or operator might have left them.

What such a site changes in the images of every class is not evidence for any class. Copies let a
calibration learn that before it meets one:

    brightness   share^gamma,  log gamma uniform in +-log 1.7      share = value / largest value
    contrast     0.5 + c (share - 0.5),  c uniform in 0.7..1
    frame        0 to 8% cut from each side
    sharpness    Gaussian blur, sigma 0 to 0.8 / 64 of the longer side

Every copy has all four, of a strength that is a function of seed and image id.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from diffdx._typing import Pixels
from diffdx.data.dataset import Dataset, Record, Source

MAX_GAMMA = 1.7
MIN_CONTRAST = 0.7
MAX_CROP = 0.08
MAX_BLUR = 0.8 / 64


@dataclass(frozen=True)
class Alteration:
    """How one copy differs from its image; the defaults leave it as it is."""

    gamma: float = 1.0
    """Power that shares of the largest value are raised to: below 1 brightens."""
    contrast: float = 1.0
    """Factor of the distance from mid-grey."""
    crop: float = 0.0
    """Fraction of a side that is cut off at each of its ends."""
    blur: float = 0.0
    """Standard deviation of the blur, as a fraction of the longer side."""

    @classmethod
    def draw(cls, seed: int, image_id: str) -> "Alteration":
        """Return the alteration of an image under a seed."""
        digest = hashlib.sha256(f"alteration {seed} {image_id}".encode(errors="replace")).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        return cls(
            gamma=float(MAX_GAMMA ** rng.uniform(-1, 1)),
            contrast=float(rng.uniform(MIN_CONTRAST, 1)),
            crop=float(rng.uniform(0, MAX_CROP)),
            blur=float(rng.uniform(0, MAX_BLUR)),
        )

    def apply(self, pixels: Pixels) -> npt.NDArray[np.generic]:
        """Return the altered image, of the same type; a cropped one is smaller.

        Args:
            pixels: (H, W) or (H, W, 3), uint8 or uint16.
        """
        height, width = (int(side * self.crop) for side in pixels.shape[:2])
        inner = pixels[height : pixels.shape[0] - height, width : pixels.shape[1] - width]
        largest = np.iinfo(pixels.dtype).max
        share: npt.NDArray[np.float64] = (inner / largest) ** self.gamma
        share = 0.5 + self.contrast * (share - 0.5)
        sigma = self.blur * max(pixels.shape[:2])
        share = gaussian_filter(share, sigma, axes=(0, 1))
        return np.asarray(np.rint(share * largest).astype(pixels.dtype))


@dataclass(frozen=True)
class AlteredSource:
    """The images of another source, each altered."""

    source: Source
    seed: int

    def pixels(self, record: Record) -> Pixels:
        """Return the altered pixels of the record."""
        return Alteration.draw(self.seed, record.image_id).apply(self.source.pixels(record))

    def mask(self, record: Record) -> None:
        """Return None: a mask of the image need not fit its copy."""
        return None

    def stamp(self, record: Record) -> str:
        """Return the image's stamp and the seed."""
        return f"{self.source.stamp(record)} altered {self.seed}"


def altered_copies(dataset: Dataset, *, seed: int) -> Dataset:
    """Return the same records with altered images; ids, labels and patients stay.

    Args:
        dataset: Any images.
        seed: Seed of the alterations.
    """
    warning = "Every image is an altered copy: nothing found here says how the model does."
    return dataclasses.replace(
        dataset,
        source=AlteredSource(dataset.source, seed),
        warnings=[*dataset.warnings, warning],
    )
