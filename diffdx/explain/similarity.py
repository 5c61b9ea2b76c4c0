"""How alike two images look: structural similarity, and mean absolute difference.

    SSIM = mean over pixels of  (2 mu_a mu_b + c1)(2 cov_ab + c2)
                                -------------------------------------------
                                (mu_a^2 + mu_b^2 + c1)(var_a + var_b + c2)

(Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004),
with local moments under a Gaussian window of 11 pixels and standard deviation 1.5, c1 = (.01 L)^2,
c2 = (.03 L)^2 and L = 2, the width of model range. Windows that would leave the image are not used,
so an H x W image has (H - 10)(W - 10) of them.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

RANGE = 2.0
"""Width of model range, [-1, 1]."""
_RADIUS, _SIGMA_PX = 5, 1.5
_K1, _K2 = 0.01, 0.03

_offsets = np.arange(-_RADIUS, _RADIUS + 1)
_window = np.exp(-0.5 * (_offsets / _SIGMA_PX) ** 2)
_WINDOW = _window / _window.sum()

Picture = Float[np.ndarray, "C H W"]


def ssim(a: Picture, b: Picture) -> float:
    """Return the mean structural similarity of two images, by the equation above.

    Args:
        a: Image in model range.
        b: Image of the same shape, in model range.

    Returns:
        A value in [-1, 1]; 1 only for equal images. Channels are compared one by one and averaged.

    Raises:
        ValueError: if a side is below 11 pixels, where no window fits.
    """
    if min(a.shape[1:]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs sides of at least 11 pixels, got {a.shape[1:]}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    var_a = _local_mean(a * a) - mean_a**2
    var_b = _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * RANGE) ** 2, (_K2 * RANGE) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float((luminance * structure).mean())


def mean_absolute_difference(a: Picture, b: Picture) -> float:
    """Return mean |a - b| over channels and pixels, in units of model range (0 .. 2)."""
    return float(np.abs(a.astype(np.float64) - b).mean())


def _local_mean(image: Float[np.ndarray, "C H W"]) -> Float[np.ndarray, "C h w"]:
    for axis in (1, 2):
        image = correlate1d(image, _WINDOW, axis=axis)
    inside = slice(_RADIUS, -_RADIUS)
    cropped: np.ndarray = image[:, inside, inside]
    return cropped
