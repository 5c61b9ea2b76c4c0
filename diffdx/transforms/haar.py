"""One-stage orthonormal Haar wavelet transform of images, exact and on the device.

With a b / c d the four pixels of a 2 x 2 block,

    LL = (a + b + c + d) / 2      LH = (a + b - c - d) / 2   (horizontal edges)
    HL = (a - b + c - d) / 2      HH = (a - b - c + d) / 2   (HL: vertical edges)

so C x H x W becomes 4C x H/2 x W/2 with the energy unchanged. Channels are ordered band by band:
all LL, all LH, all HL, all HH. The 4 x 4 matrix is symmetric and orthonormal: its own inverse.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdx._tensors import Encoded, Images

BANDS = ("LL", "LH", "HL", "HH")

_MATRIX = 0.5 * torch.tensor(
    [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=torch.float64
)


def _mix(blocks: Float[Tensor, "B C 4 H W"]) -> Float[Tensor, "B C 4 H W"]:
    return torch.einsum("jk,bckhw->bcjhw", _MATRIX.to(blocks), blocks)


def haar_dwt(x: Images) -> Encoded:
    """Return the Haar coefficients (B, 4C, H/2, W/2) of images (B, C, H, W).

    Raises:
        ValueError: if a side is odd, since a one-stage transform needs whole 2 x 2 blocks.
    """
    b, c, h, w = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"the Haar transform needs even sides, got {h} x {w}")
    blocks = F.pixel_unshuffle(x, 2).view(b, c, 4, h // 2, w // 2)
    return _mix(blocks).transpose(1, 2).reshape(b, 4 * c, h // 2, w // 2)


def haar_idwt(coefficients: Encoded) -> Images:
    """Return the images (B, C, 2H, 2W) whose Haar coefficients are (B, 4C, H, W).

    Raises:
        ValueError: if the number of channels is not a multiple of the four bands.
    """
    b, c4, h, w = coefficients.shape
    if c4 % 4:
        raise ValueError(f"Haar coefficients come in 4 bands, got {c4} channels")
    blocks = _mix(coefficients.view(b, 4, c4 // 4, h, w).transpose(1, 2))
    return F.pixel_shuffle(blocks.reshape(b, c4, h, w), 2)
