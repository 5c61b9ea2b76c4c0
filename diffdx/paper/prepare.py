"""What cells need that no verb makes, each by a command of its own.

python -m diffdx.paper.prepare pipeline OUT --data DATA --prompts FILE... --steps N
    a small Stable Diffusion pipeline: an autoencoder trained to draw DATA, mean |x - x'| +
    1e-6 KL; a text encoder that knows the prompts' words, and a network with random weights
python -m diffdx.paper.prepare learned OUT --base PIPELINE --run RUN
    that pipeline with the network that RUN has learned
python -m diffdx.paper.prepare union OUT.csv --data DATA... [--splits FILE...]
    several sets as one table: what the paper fine-tunes on (section 3.4)
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from diffdx._device import resolve_device
from diffdx._files import atomic_path
from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.stable_diffusion.checkpoint import locate
from diffdx.data import open_dataset
from diffdx.data.splits import align_splits, load_splits, make_splits
from diffdx.paper.scales import SIDE_PX
from diffdx.paper.small_pipeline import Size, new_vae, random_pipeline
from diffdx.training.images import load_images
from diffdx.transforms.pixels import PixelSpec

SMALL = Size(
    unet=(64, 128, 192),
    vae=(32, 64, 64),
    text_width=128,
    text_layers=4,
    latent_side=SIDE_PX // 4,
    norm_groups=16,
    head_dim=4,
)
KL_WEIGHT = 1e-6
_BATCH = 16


def small_pipeline(
    out: Path, data: str, prompts: Sequence[Path], steps: int, size: Size = SMALL
) -> None:
    """Write a pipeline whose autoencoder has learned a set's training images.

    Args:
        out: Folder; `model_index.json` comes last, so that half a pipeline is none.
        data: The set.
        prompts: Files whose words become tokens.
        steps: Of the autoencoder, of 16 images each.
        size: Widths.
    """
    texts = [text for file in prompts for text in yaml.safe_load(file.read_text("utf-8")).values()]
    whole = out.with_name(f"{out.name}-whole")
    random_pipeline(whole, size, words=" ".join(texts).lower().split())
    side_px = size.latent_side * 2 ** (len(size.vae) - 1)
    _train_autoencoder(whole / "vae", data, steps, size, side_px)
    shutil.rmtree(out, ignore_errors=True)
    whole.rename(out)


def _train_autoencoder(out: Path, data: str, steps: int, size: Size, side_px: int) -> None:
    """Train an autoencoder on a set and save it, its latents scaled to unit variance."""
    torch.manual_seed(0)
    device = resolve_device("auto")
    vae = new_vae(size).to(device)
    dataset = open_dataset(data)
    frame = make_splits(dataset, seed=0)
    train = dataset.select(frame.image_id[frame.role == "train"].tolist())
    table = load_images(dataset, train.records, PixelSpec(side_px, 3, "squash"), num_workers=2)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for step in range(steps):
        x = table.x(np.random.default_rng(step).integers(0, len(table), _BATCH)).to(device)
        latents = vae.encode(x).latent_dist
        loss = (vae.decode(latents.sample()).sample - x).abs().mean()
        loss = loss + KL_WEIGHT * latents.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        z = vae.eval().encode(table.x(slice(0, 256)).to(device)).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / z.std()))
    vae.save_pretrained(out)


def learned_pipeline(out: Path, base: str, run: Path) -> None:
    """Write a pipeline with the network that a run has learned."""
    whole = out.with_name(f"{out.name}-whole")
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(locate(base), whole)
    denoiser: Any = DiffusionModel.load(run).denoiser
    denoiser.unet.save_pretrained(whole / "unet")
    shutil.rmtree(out, ignore_errors=True)
    whole.rename(out)


def union_table(out: Path, data: Sequence[str], splits: Sequence[Path]) -> None:
    """Write several sets as one table of path, label, patient_id and split.

    Args:
        out: CSV file.
        data: The sets.
        splits: Published lists of all of them; none divides each by its seed.
    """
    frames = []
    for name in data:
        dataset = open_dataset(name)
        frame = (
            align_splits(load_splits([f for f in splits if _is_of(f, dataset.name)]), dataset)
            if splits
            else make_splits(dataset, seed=0)
        )
        # A table's paths are relative to it.
        frame["path"] = [str(Path(path).resolve()) for path in frame["path"]]
        frames.append(frame[["path", "label", "patient_id", "role"]])
    table = pd.concat(frames).rename(columns={"role": "split"})
    with atomic_path(out) as temporary:
        table.to_csv(temporary, index=False)


def _is_of(file: Path, dataset: str) -> bool:
    """Say whether a list is this set's: `chexpert-train.csv` is of `chexpert`."""
    return file.name.startswith(f"{dataset}-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="What cells need that no verb makes.")
    parser.add_argument("what", choices=("pipeline", "learned", "union"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--prompts", type=Path, nargs="+", default=[])
    parser.add_argument("--splits", type=Path, nargs="+", default=[])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--base", default="")
    parser.add_argument("--run", type=Path)
    asked = parser.parse_args(arguments)
    if asked.what == "pipeline":
        small_pipeline(asked.out, asked.data[0], asked.prompts, asked.steps)
    elif asked.what == "learned":
        learned_pipeline(asked.out, asked.base, asked.run)
    else:
        union_table(asked.out, asked.data, asked.splits)


if __name__ == "__main__":
    main()
