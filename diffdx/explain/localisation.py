"""Does a map point at the finding? Two measures against a mask, for any kind of map.

    pointing game    1 if the map's maximum lies inside the mask      (Zhang et al. 2016)
    energy in mask   sum of the map's positive part inside the mask / sum of it everywhere
                                                                      (Wang et al. 2020)

Maps are signed: positive is what speaks for the finding's class, and only that counts, so the sign
has to be settled first (`toward_finding`). A map without information scores about the mask's share
of the image in both.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

PixelMap = Float[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]


def smoothed(pixel_map: PixelMap, sigma_px: float) -> PixelMap:
    """Return the map under a Gaussian of this width in pixels; 0 leaves it as it is.

    An evidence map of single pixels carries the noise of its trials, which averages out over the
    size of a finding. Its sum stays the same, since borders are mirrored.

    Raises:
        ValueError: if the width is negative.
    """
    if sigma_px < 0:
        raise ValueError(f"sigma_px must not be negative, got {sigma_px}")
    wide: np.ndarray = gaussian_filter(pixel_map.astype(np.float64), sigma_px, mode="reflect")
    return wide


def hits_mask(pixel_map: PixelMap, mask: Mask) -> float:
    """Return 1 if the map's maximum lies inside the mask, 0 if not: one round of the pointing game.

    Where several pixels share the maximum, the share of them inside, so that a constant map scores
    the mask's share of the image.

    Raises:
        ValueError: if the mask is empty, where nothing could be hit.
    """
    _require(mask)
    return float(mask[pixel_map == pixel_map.max()].mean())


def energy_in_mask(pixel_map: PixelMap, mask: Mask) -> float:
    """Return the share of the map's positive part that lies inside the mask, in [0, 1].

    nan for a map without any positive pixel.

    Raises:
        ValueError: if the mask is empty.
    """
    _require(mask)
    positive = np.clip(pixel_map.astype(np.float64), 0, None)
    total = positive.sum()
    return float(positive[mask].sum() / total) if total > 0 else float("nan")


def toward_finding(
    evidence: PixelMap, *, label: int | None, y_src: int, y_cf: int
) -> PixelMap | None:
    """Return the evidence for the class of the finding, whatever the image was called.

    The evidence of an image speaks for y_src against y_cf. A mask shows the finding of its true
    class: where that is y_cf (the image was called wrongly), the sign is turned.

    Returns:
        The map; None if the true class is neither of the two, or not known.
    """
    if label is None or label not in (y_src, y_cf):
        return None
    return evidence if label == y_src else -evidence


def _require(mask: Mask) -> None:
    if not mask.any():
        raise ValueError("the mask is empty; leave out images without a finding")
