"""Fine-tuning on latents that are computed once.

Encoding an image costs an autoencoder about as much as a step costs its small network. If the only
augmentation is the left-right flip, each image has two latents: they are kept in the run folder, in
`latents-KEY.npy`, shaped (N, 2, C, h, w), where KEY is a hash of the images and the autoencoder.
The first of the two is the image's own, the second that of its mirror image.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from diffdx._device import Precision
from diffdx._tensors import Encoded, Images
from diffdx._typing import Labels
from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.stable_diffusion.latents import LatentCoordinates
from diffdx.config import AugmentConfig, RunConfig
from diffdx.training import ranks
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable

_AT_ONCE = 8

LatentTable = Float[np.ndarray, "N 2 C h w"]


def trainer_of(model: DiffusionModel, augment: AugmentConfig) -> type[Trainer]:
    """Return the trainer for a model: one on stored latents where the augmentation allows it."""
    latent = isinstance(model.transform, LatentCoordinates)
    return LatentTrainer if latent and augment.only_flips else Trainer


class LatentTrainer(Trainer):
    """Trains a latent model on stored latents; see `Trainer` for the loop and its files."""

    def __init__(
        self,
        model: DiffusionModel,
        images: ImageTable,
        config: RunConfig,
        run: Path,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        """Prepare optimiser and average; nothing is written yet."""
        super().__init__(model, images, config, run, device=device, precision=precision)
        self._latents: LatentTable | None = None

    def _inputs(self, batch: Labels, generator: torch.Generator) -> Images:
        if self._latents is None:
            with ranks.main_first():
                self._latents = stored_latents(self.model, self.images, self.run, self.device)
        chance = 0.5 if self.config.train.augment.flip else 0.0
        flipped = (torch.rand(len(batch), generator=generator) < chance).long().numpy()
        return torch.from_numpy(self._latents[batch, flipped]).to(self.device)

    def _encoded(self, x: Images) -> Encoded:
        return x


def stored_latents(
    model: DiffusionModel, images: ImageTable, run: Path, device: torch.device
) -> LatentTable:
    """Return the latents of all images and of their mirror images, from the run folder's file."""
    file = run / f"latents-{_key(model, images)}.npy"
    if not file.is_file():
        run.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        shape = (len(images), 2, *model.shape)
        table = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            x = images.x(part).to(device)
            for mirrored, seen in enumerate((x, x.flip(-1))):
                table[part, mirrored] = model.transform.encode(seen).cpu().numpy()
        table.flush()
        os.replace(temporary, file)
    latents: LatentTable = np.load(file, mmap_mode="r")
    return latents


def _key(model: DiffusionModel, images: ImageTable) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images.stored).data)
    for weight in model.transform.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:12]
