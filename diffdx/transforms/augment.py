"""Random small changes of training images: rotation, zoom, shift, optional left-right flip.

Each image gets its own affine map, drawn from an explicit generator, so that a resumed run sees the
same images as an uninterrupted one. Pixels from outside the image repeat its border.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdx._tensors import Images
from diffdx.config import AugmentConfig


def random_affine(
    config: AugmentConfig, batch_size: int, generator: torch.Generator
) -> Float[Tensor, "B 2 3"]:
    """Return one affine map per image, output to input, in coordinates of [-1, 1].

    scale = zoom-uniform in log,  angle and shift uniform,  flip with probability 1/2
    """

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(batch_size, generator=generator) - 1) * limit

    angle = uniform(math.radians(config.rotate_degrees))
    scale = torch.exp(uniform(math.log1p(config.zoom)))
    # grid_sample counts the image as 2 wide, so a shift by a fraction of the side is doubled.
    shift_x, shift_y = uniform(2 * config.shift), uniform(2 * config.shift)
    mirror = torch.rand(batch_size, generator=generator) < (0.5 if config.flip else 0.0)
    sign = torch.where(mirror, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([sign * cos, -sin, shift_x], 1), torch.stack([sign * sin, cos, shift_y], 1)]
    return torch.stack(rows, 1)


def augment(x: Images, config: AugmentConfig, generator: torch.Generator) -> Images:
    """Return images in model range, each under its own random affine map; clipped to [-1, 1]."""
    theta = random_affine(config, len(x), generator).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return warped.clamp(-1, 1)
