"""A diffusion model with all that is needed to use it: network, schedule, pixels, classes.

On disk it is a folder of two files, see `backbones.stored`: `model.safetensors` holds the averaged
weights and the wavelet bands' statistics.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from diffdx._files import write_json
from diffdx._tensors import ClassIds, Images, Times
from diffdx._typing import Pixels
from diffdx.backbones.parts import build_parts
from diffdx.backbones.stored import (
    CARD_FILE,
    Card,
    find_checkpoint,
    read_card,
    read_weights,
    write_weights,
)
from diffdx.config import FORMAT_VERSION, ModelConfig
from diffdx.errors import CheckpointError, ConfigError
from diffdx.transforms.pixels import PixelSpec, to_model_range


class ModelCard(Card):
    """Content of `model.json`."""

    model: ModelConfig


class DiffusionModel(nn.Module):
    """Class-conditional diffusion model on images in model range.

    Attributes:
        config: What rebuilds it.
        classes: Class names; a class index is a position in this tuple.
        positive: The class that F1 and AUROC mean, if there is one.
        warnings: What a reader of any result of this model must know.
        denoiser: The `Denoiser`, in the network's coordinates.
        transform: Model range <-> network's coordinates.
        schedule: Time <-> log-SNR.
        pixels: Decoded images -> model range.
        sha256: Hash of the weights file it was loaded from; empty if it was not.
    """

    def __init__(
        self,
        config: ModelConfig,
        classes: tuple[str, ...],
        positive: str | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Build the model with random weights.

        Raises:
            ConfigError: if the positive class is not one of the classes.
        """
        super().__init__()
        if positive is not None and positive not in classes:
            raise ConfigError(f"positive class '{positive}' is not one of {', '.join(classes)}")
        data = config.data
        self.config = config
        self.classes = classes
        self.positive = positive
        self.warnings = warnings
        self.sha256 = ""
        self.pixels = PixelSpec(data.image_size, data.channels, data.resize)
        parts = build_parts(config, len(classes))
        self.schedule, self.transform, self.denoiser = (
            parts.schedule,
            parts.transform,
            parts.denoiser,
        )
        self.shape = parts.shape
        """Shape of one image in the network's coordinates."""

    @property
    def null_label(self) -> int:
        """The label that stands for no class: K."""
        return len(self.classes)

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat: the denoiser's call."""
        v_hat: Images = self.denoiser(z_t, logsnr, y)
        return v_hat

    def preprocess(self, pixels: Pixels) -> Float[np.ndarray, "C S S"]:
        """Return a decoded image (uint8 or uint16) as float32 in [-1, 1], in the model's size."""
        return to_model_range(self.pixels.store(pixels))

    def save(self, folder: Path, *, dtype: Literal["float32", "bfloat16"] = "float32") -> str:
        """Write weights and card into a new or empty folder; return the weights' hash."""
        kind = getattr(torch, dtype)
        tensors = {
            name: value.to(kind) if name.startswith("denoiser.") else value
            for name, value in self.state_dict().items()
        }
        digest = write_weights(tensors, folder)
        card = ModelCard(
            format_version=FORMAT_VERSION,
            classes=self.classes,
            positive=self.positive,
            sha256=digest,
            model=self.config,
            warnings=self.warnings,
        )
        write_json(folder / CARD_FILE, card.model_dump(mode="json"))
        return digest

    @staticmethod
    def load(path: Path | str) -> "DiffusionModel":
        """Return the model of a run folder (its best checkpoint) or of one checkpoint folder.

        Weights are read as float32 and the model is in eval mode.

        Raises:
            CheckpointError: if the folder has no model, or its files are damaged, of a newer
                format, or do not belong together.
        """
        folder = find_checkpoint(Path(path))
        card = read_card(folder / CARD_FILE, ModelCard, "diffusion")
        try:
            model = DiffusionModel(card.model, card.classes, card.positive, card.warnings)
        except ConfigError as error:
            raise CheckpointError(f"{folder / CARD_FILE}: {error}; copy it again") from None
        read_weights(model, folder, card.sha256)
        model.sha256 = card.sha256
        return model.eval()
