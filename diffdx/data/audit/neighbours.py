"""Which of many 64-bit words differ in three bits at most, without comparing all pairs.

Two words that differ in at most 3 bits agree in one of their four 16-bit bands (pigeonhole). So for
each band the words are sorted by it, and each is compared with those that follow while the band is
the same: memory O(n), time the number of pairs that share a band.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, UInt64

RADIUS = 3
_BANDS, _BAND_BITS = 4, 16


def words(spectra: Float[np.ndarray, "n 64"]) -> UInt64[np.ndarray, "n"]:
    """Return a word for each spectrum: bit k is set where coefficient k is above its median.

    The median over the set makes each bit true for half of the images; against zero, images of one
    body part would agree in most bits, since they share its shape.
    """
    above = spectra > np.median(spectra, axis=0)
    packed: UInt64[np.ndarray, n] = np.packbits(above, axis=1).view(np.uint64).ravel()
    return packed


def near_pairs(
    found: UInt64[np.ndarray, "n"],
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]]:
    """Yield all pairs of positions whose words differ in at most 3 bits, each pair once."""
    shifts = np.uint64(_BAND_BITS) * np.arange(_BANDS, dtype=np.uint64)
    bands = ((found[:, None] >> shifts) & np.uint64(2**_BAND_BITS - 1)).astype(np.uint16)
    for b in range(_BANDS):
        order = np.argsort(bands[:, b], kind="stable")
        first, step = np.arange(len(order)), 1
        while len(first := first[first + step < len(order)]):
            first = first[bands[order[first], b] == bands[order[first + step], b]]
            i, j = order[first], order[first + step]
            near = np.bitwise_count(found[i] ^ found[j]) <= RADIUS
            # A pair that agrees in an earlier band was yielded there.
            near &= ~(bands[i, :b] == bands[j, :b]).any(axis=1)
            if near.any():
                yield i[near], j[near]
            step += 1
