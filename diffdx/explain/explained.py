"""One explained image: what every measure of an explanation needs, as plain arrays.

All images are in model range, (C, H, W) in [-1, 1], and made by one method from one noise:

    x_factual   x denoised as y_src                x_cf     x denoised as y_cf
    x_null      x denoised as y_src, unguided      x_back   x_cf denoised as y_src

x_null is the null edit: what noising and sampling alone lose.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Picture = Float[np.ndarray, "C H W"]
PixelMap = Float[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Explained:
    """An image, its counterfactual and what it takes to measure them.

    Attributes:
        image_id: The image.
        group: Its patient, or the image itself where patients are not known: the unit of the
            bootstrap.
        label: Its true class; None if not known.
        y_src: The class it was explained as.
        y_cf: The class it was turned into.
        x: The image.
        x_factual: Denoised as y_src with guidance.
        x_cf: Denoised as y_cf with guidance.
        x_null: Denoised as y_src at guidance 1.
        x_back: The counterfactual, turned back into y_src.
        evidence: Per pixel, what speaks for y_src (positive) or against it; None without trials.
        mask: Where the finding is; None if not known.
        nfe: Network evaluations spent on it.
    """

    image_id: str
    group: str
    label: int | None
    y_src: int
    y_cf: int
    x: Picture
    x_factual: Picture
    x_cf: Picture
    x_null: Picture
    x_back: Picture
    evidence: PixelMap | None = None
    mask: Mask | None = None
    nfe: int = 0

    @property
    def difference(self) -> Picture:
        """The class-specific change, x_cf - x_factual."""
        change: Picture = self.x_cf - self.x_factual
        return change
