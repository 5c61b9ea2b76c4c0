"""Random small changes of training images: place, sharpness, brightness, in this order.

    affine     rotation, zoom, shift, left-right flip; the border is repeated outside the image
    flip       top to bottom
    blur       torchvision's: a separable Gaussian of 5 px, the border reflected
    octaves    amplitudes at 1, 2, 4, ... cycles a side times a factor each, log-linear between them
    gamma      2 ((x + 1) / 2)^g - 1
    contrast   c x

Each image has its own, drawn from an explicit generator, so that a resumed run sees the same images
as an uninterrupted one.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffdx._tensors import Images, PerImage
from diffdx.config import AugmentConfig

_RADIUS_PX = 2


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
    """Return images in model range, each changed at random; clipped to [-1, 1].

    Args:
        x: Images in [-1, 1], on any device.
        config: Which changes, and how large.
        generator: On the CPU; the changes are a function of it and of the batch size alone.
    """
    if config.resamples or config.flip:
        theta = random_affine(config, len(x), generator).to(x)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
        x = x.clamp(-1, 1)
    if config.flip_vertical:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(_per_image(mirrored, x).bool(), x.flip(2), x)
    if config.blur_sigma_px is not None:
        low, high = config.blur_sigma_px
        sigma_px = low + (high - low) * torch.rand(len(x), generator=generator)
        # Its weights sum to 1 up to rounding; below -1, gamma would take a power of less than 0.
        x = gaussian_blur(x, sigma_px.to(x)).clamp(-1, 1)
    if config.octaves > 1:
        num_octaves = 1 + math.ceil(math.log2(max(x.shape[2:])))
        factors = _factors(config.octaves, (len(x), num_octaves), generator)
        x = octave_gains(x, factors.to(x)).clamp(-1, 1)
    if config.gamma > 1:
        power = _per_image(_factors(config.gamma, (len(x),), generator), x)
        x = 2 * ((x + 1) / 2) ** power - 1
    if config.contrast > 1:
        x = (x * _per_image(_factors(config.contrast, (len(x),), generator), x)).clamp(-1, 1)
    return x


def gaussian_blur(x: Images, sigma_px: PerImage) -> Images:
    """Return each image blurred by a Gaussian of its own standard deviation > 0, cut off at 2 px.

    weight(d) proportional to exp(-d^2 / (2 sigma^2)),  d = -2 .. 2,  weights sum to 1
    """
    offset = torch.arange(-_RADIUS_PX, _RADIUS_PX + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-0.5 * (offset / sigma_px[:, None]) ** 2)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return _along_rows(_along_rows(x, weight).mT, weight).mT


def octave_gains(x: Images, factors: Float[Tensor, "B O"]) -> Images:
    """Return each image with the amplitudes of its octaves multiplied; the mean stays.

    gain(f) = exp(linear interpolation of log factors[b] at log2 f),  f >= 1 in cycles a side

    Args:
        x: Images.
        factors: Positive; the first is that of 1 cycle a side, the next of 2, of 4, and so on.
            Beyond the last one the gain stays.
    """
    height, width = x.shape[2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=x.device)
    columns = torch.fft.rfftfreq(width, 1 / width, device=x.device)
    octave = torch.hypot(rows[:, None], columns).clamp(min=1).log2()
    low = octave.long().clamp(max=factors.shape[1] - 1)
    high = (low + 1).clamp(max=factors.shape[1] - 1)
    log_factors = factors.log()
    gain = torch.lerp(log_factors[:, low], log_factors[:, high], octave - octave.floor()).exp()
    gain[:, 0, 0] = 1
    gained: Images = torch.fft.irfft2(torch.fft.rfft2(x) * gain[:, None], s=(height, width))
    return gained


def _along_rows(x: Images, weight: Tensor) -> Images:
    padded = F.pad(x, (_RADIUS_PX, _RADIUS_PX, 0, 0), mode="reflect")
    return torch.einsum("bchwd,bd->bchw", padded.unfold(3, 2 * _RADIUS_PX + 1, 1), weight)


def _factors(
    largest: float, shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "B *octaves"]:
    """Return factors between 1 / largest and largest, uniform in their logarithm."""
    return largest ** (2 * torch.rand(shape, generator=generator) - 1)


def _per_image(values: Float[Tensor, "B"] | Bool[Tensor, "B"], x: Images) -> Tensor:
    """Return one value per image, shaped to go with images."""
    return values.to(x).view(-1, 1, 1, 1)
