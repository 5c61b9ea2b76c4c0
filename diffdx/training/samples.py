"""Grids of generated images, one row a class: what the model has learnt, at a glance."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from diffdx._files import atomic_path
from diffdx._random import philox_normal, purpose_key
from diffdx._tensors import ClassIds, Images, Times
from diffdx.backbones.model import DiffusionModel
from diffdx._device import Precision, autocast
from diffdx.diffusion.samplers import Method, sample
from diffdx.transforms.pixels import to_uint8


def generate(
    model: DiffusionModel,
    y: ClassIds,
    *,
    seed: int = 0,
    num_steps: int = 50,
    guidance_scale: float = 1.0,
    method: Method = "ddim",
    precision: Precision = "fp32",
) -> Images:
    """Return one generated image per label, in model range; equal seeds give equal noise.

    Image i starts from noise i of the seed whatever the labels, so two calls that differ only in
    the labels show the same draws under two classes.
    """
    device = next(model.parameters()).device
    key = torch.full((len(y),), purpose_key(seed, "generation"))
    z_start = philox_normal(key, torch.arange(len(y)), model.shape, device)

    def predict_v(z_t: Images, logsnr: Times, labels: ClassIds) -> Images:
        with autocast(device, precision):
            return model(z_t, logsnr, labels)

    z = sample(
        predict_v,
        model.schedule,
        z_start,
        y.to(device),
        null_label=model.null_label,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        method=method,
        generator=torch.Generator(device).manual_seed(seed),
    )
    return model.transform.decode(z)


def grid_image(x: Images, columns: int) -> UInt8[np.ndarray, "H W C"]:
    """Return images in model range as one uint8 picture with this many columns."""
    pixels = to_uint8(x.float().cpu().numpy())
    count, channels, height, width = pixels.shape
    rows = count // columns
    grid = pixels.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def write_png(path: Path, pixels: UInt8[np.ndarray, "H W C"]) -> None:
    """Write a grey or RGB picture as PNG in one piece."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(temporary)


def write_sample_grid(
    model: DiffusionModel, path: Path, precision: Precision, *, columns: int = 8
) -> None:
    """Write a PNG of `columns` generated images for each class, one row a class."""
    num_classes = len(model.classes)
    rows = [
        generate(
            model, torch.full((columns,), k), num_steps=25, guidance_scale=2.0, precision=precision
        )
        for k in range(num_classes)
    ]
    write_png(path, grid_image(torch.cat(rows), columns))
