"""Difference maps: what the class changes, and where that is more than chance.

    difference(p)    mean over draws d and channels of x_cf[d, p] - x_factual[d, p]
    null spread(p)   sqrt(2) s(p), s the standard deviation over the draws of x_factual[d, p]
    z(p)             difference(p) / null spread(p)

A null edit is the difference of two factuals of different draws: the same image under the same
class, but for the noise. sqrt(2) s is its standard deviation, so |z| > 2 means a change that a mere
redraw exceeds about once in twenty times. z is an effect size: more draws make it steadier, not
larger. The variance is pooled over neighbouring pixels, since a few draws leave it rough.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from diffdx.explain.explained import PixelMap

Draws = Float[np.ndarray, "D C H W"]

SIGNIFICANT_Z = 2.0
_POOLING_PX = 1.5


def difference_map(cf_draws: Draws, factual_draws: Draws) -> PixelMap:
    """Return the class-specific change of each pixel, in model range (-2 to 2)."""
    change: PixelMap = (cf_draws - factual_draws).mean(axis=(0, 1))
    return change


def null_spread(factual_draws: Draws) -> PixelMap:
    """Return the standard deviation of a null edit at each pixel, in model range.

    Raises:
        ValueError: if there is one draw, whose spread is unknown.
    """
    if len(factual_draws) < 2:
        raise ValueError("the spread over draws takes at least 2 draws; use --draws 2 or more")
    variance = factual_draws.mean(axis=1, dtype=np.float64).var(axis=0, ddof=1)
    spread: PixelMap = np.sqrt(2 * gaussian_filter(variance, _POOLING_PX, mode="nearest"))
    return spread.astype(np.float32)


def significance(cf_draws: Draws, factual_draws: Draws) -> PixelMap:
    """Return z, the change of each pixel over the spread of null edits; 0 where nothing changed.

    Raises:
        ValueError: if there is one draw, whose spread is unknown.
    """
    change = difference_map(cf_draws, factual_draws)
    spread = null_spread(factual_draws)
    # Where all draws agree to the last digit, any change is beyond chance.
    z: PixelMap = change / np.maximum(spread, np.finfo(np.float32).tiny)
    return z
