"""Grids of generated images, one row a class: what the model has learnt, at a glance."""

from pathlib import Path

import torch

from diffdx._device import Precision
from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.transforms.pictures import grid_image, write_png


def write_sample_grid(
    model: DiffusionModel, path: Path, precision: Precision, *, columns: int = 8
) -> None:
    """Write a PNG of `columns` generated images for each class; a column shares its noise."""
    rows = [
        generate(
            model, torch.full((columns,), k), num_steps=25, guidance_scale=2.0, precision=precision
        )
        for k in range(len(model.classes))
    ]
    write_png(path, grid_image(torch.cat(rows), columns))
