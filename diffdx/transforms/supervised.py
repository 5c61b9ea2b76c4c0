"""Random changes of the baselines' training images: rotation, flips, blur (paper appendix B.2).

The affine ones are those of `transforms.augment`; a rotated image's corners repeat its border,
where torchvision would fill them with black. The blur is torchvision's: a separable Gaussian of
5 px, one standard deviation per image, the border reflected.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdx._tensors import Images, PerImage
from diffdx.baseline_config import SupervisedAugmentConfig
from diffdx.transforms.augment import augment

_RADIUS_PX = 2


def augment_supervised(
    x: Images, config: SupervisedAugmentConfig, generator: torch.Generator
) -> Images:
    """Return images in model range, each changed at random; clipped to [-1, 1].

    Args:
        x: Images in [-1, 1], on any device.
        config: Which changes, and how large.
        generator: On the CPU; the changes are a function of it and of the batch size alone.
    """
    if config.rotate_degrees or config.zoom or config.shift or config.flip:
        x = augment(x, config, generator)
    if config.flip_vertical:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.to(x.device).view(-1, 1, 1, 1), x.flip(2), x)
    if config.blur_sigma_px is not None:
        low, high = config.blur_sigma_px
        sigma_px = low + (high - low) * torch.rand(len(x), generator=generator)
        x = gaussian_blur(x, sigma_px.to(x))
    return x


def gaussian_blur(x: Images, sigma_px: PerImage) -> Images:
    """Return each image blurred by a Gaussian of its own standard deviation > 0, cut off at 2 px.

    weight(d) proportional to exp(-d^2 / (2 sigma^2)),  d = -2 .. 2,  weights sum to 1
    """
    offset = torch.arange(-_RADIUS_PX, _RADIUS_PX + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-0.5 * (offset / sigma_px[:, None]) ** 2)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return _along_rows(_along_rows(x, weight).mT, weight).mT


def _along_rows(x: Images, weight: Tensor) -> Images:
    batch, channels, _, width = x.shape
    padded = F.pad(x, (_RADIUS_PX, _RADIUS_PX, 0, 0), mode="reflect")
    shifted = padded.unfold(3, 2 * _RADIUS_PX + 1, 1)
    assert shifted.shape[:2] == (batch, channels)
    assert shifted.shape[3] == width
    return torch.einsum("bchwd,bd->bchw", shifted, weight)
