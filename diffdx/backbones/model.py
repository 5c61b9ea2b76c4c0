"""A diffusion model with all that is needed to use it: network, schedule, pixels, classes.

On disk it is a folder of two files: `model.safetensors` (the averaged weights and the wavelet
bands' statistics) and `model.json` (format version, configuration, classes, hash of the weights).
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn

from diffdx._files import sha256, sync, write_json
from diffdx._tensors import ClassIds, Images, Times
from diffdx._typing import Pixels
from diffdx.backbones.conditional_unet import ConditionalUNetDenoiser
from diffdx.backbones.denoiser import Denoiser
from diffdx.backbones.dit import DiTDenoiser
from diffdx.backbones.unet import UNetDenoiser
from diffdx.config import (
    FORMAT_VERSION,
    ConditionalUNetConfig,
    DiTConfig,
    ModelConfig,
    UNetConfig,
    validate_config,
)
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import CheckpointError, ConfigError
from diffdx.transforms.coordinates import Coordinates
from diffdx.transforms.pixels import PixelSpec, to_model_range

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"


class ModelCard(BaseModel):
    """Content of `model.json`."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    classes: tuple[str, ...]
    positive: str | None
    sha256: str
    model: ModelConfig
    warnings: tuple[str, ...] = ()


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
        self.schedule = ShiftedCosine(**config.schedule.model_dump())
        self.transform = Coordinates(data.channels, data.wavelet, data.band_scaling)
        side_px = data.image_size // (2 if data.wavelet == "haar" else 1)
        self.shape = (self.transform.channels, side_px, side_px)
        """Shape of one image in the network's coordinates."""
        self.denoiser = _denoiser(config, self.shape, len(classes), self.schedule)

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
        folder.mkdir(parents=True, exist_ok=True)
        kind = getattr(torch, dtype)
        tensors = {
            name: value.detach()
            .to("cpu", kind if name.startswith("denoiser.") else None)
            .contiguous()
            for name, value in self.state_dict().items()
        }
        weights = folder / WEIGHTS_FILE
        # save_file would make the file readable by its owner alone.
        weights.write_bytes(serialize(tensors))
        sync(weights)
        digest = sha256(weights)
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
        card = _read_card(folder / CARD_FILE)
        try:
            model = DiffusionModel(card.model, card.classes, card.positive, card.warnings)
        except ConfigError as error:
            raise CheckpointError(f"{folder / CARD_FILE}: {error}; copy it again") from None
        weights = folder / WEIGHTS_FILE
        tensors = _read_weights(weights, card.sha256)
        expected = model.state_dict()
        wrong = sorted(
            name
            for name in expected.keys() | tensors.keys()
            if name not in expected
            or name not in tensors
            or expected[name].shape != tensors[name].shape
            or not bool(torch.isfinite(tensors[name]).all())
        )
        if wrong:
            raise CheckpointError(
                f"{weights}: {len(wrong)} tensors are missing, unknown, misshapen or not finite, "
                f"first {', '.join(wrong[:3])}; use the checkpoint's own model.json"
            )
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
        model.sha256 = card.sha256
        return model.eval()


def _denoiser(
    config: ModelConfig, shape: tuple[int, int, int], num_classes: int, schedule: ShiftedCosine
) -> Denoiser:
    """Return the network that the configuration names, with random weights."""
    size = {"in_channels": shape[0], "side_px": shape[1], "num_classes": num_classes}
    match config.backbone:
        case UNetConfig() as backbone:
            return UNetDenoiser(backbone, schedule=schedule, **size)
        case ConditionalUNetConfig() as backbone:
            return ConditionalUNetDenoiser(backbone, schedule=schedule, **size)
        case DiTConfig() as backbone:
            return DiTDenoiser(backbone, schedule=schedule, **size)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder meant by a run folder or a checkpoint folder.

    Raises:
        CheckpointError: if neither `model.json` nor `checkpoints/best` or `last` is there.
    """
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (folder / CARD_FILE).is_file():
            return folder
    raise CheckpointError(
        f"{path} holds no model: expected {CARD_FILE} in it or in its checkpoints/best. "
        "Name a folder written by 'diffdx train'"
    )


def _read_card(path: Path) -> ModelCard:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged; copy the checkpoint again") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this diffdx reads {FORMAT_VERSION}; "
            "install the version that wrote it"
        )
    try:
        return validate_config(ModelCard, values, source=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _read_weights(path: Path, expected_sha256: str) -> dict[str, torch.Tensor]:
    try:
        if sha256(path) != expected_sha256:
            raise CheckpointError(
                f"{path} is damaged or was replaced: its SHA-256 is not the one in {CARD_FILE}; "
                "copy the checkpoint again or use another one of the run"
            )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again") from None
