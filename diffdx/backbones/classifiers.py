"""Discriminative baselines (paper 3.2): ResNets of torchvision; EfficientNets, ViTs, Swin of timm.

    logits = network((x - mean) / std),    x in [-1, 1], grey repeated to three channels
    probabilities = softmax(logits)        a score until it is calibrated

On disk it is a folder of two files, see `backbones.stored`; its card says `kind: baseline`.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdx._files import write_json
from diffdx._tensors import Images
from diffdx._typing import Pixels
from diffdx.backbones.architectures import build_network, pixel_statistics
from diffdx.backbones.stored import (
    CARD_FILE,
    Card,
    find_checkpoint,
    model_kind,
    read_card,
    read_weights,
    write_weights,
)
from diffdx.baseline_config import CNNS, RESNETS, BaselineModelConfig
from diffdx.config import FORMAT_VERSION
from diffdx.errors import CheckpointError, ConfigError
from diffdx.transforms.pixels import PixelSpec, to_model_range

KIND: Literal["baseline"] = "baseline"

Scores = Float[Tensor, "B K"]
"""Logits or softmax of each class."""


class BaselineCard(Card):
    """Content of `model.json`."""

    kind: Literal["baseline"]
    model: BaselineModelConfig


class Baseline(nn.Module):
    """Discriminative classifier of images in model range.

    Attributes:
        config: What rebuilds it.
        classes: Class names; a class index is a position in this tuple.
        positive: The class that F1 and AUROC mean, if there is one.
        warnings: What a reader of any result of this model must know.
        network: Three-channel images to logits.
        pixels: Decoded images -> model range.
        sha256: Hash of the weights file it was loaded from; empty if it was not.
    """

    def __init__(
        self,
        config: BaselineModelConfig,
        classes: tuple[str, ...],
        positive: str | None = None,
        warnings: tuple[str, ...] = (),
        *,
        fetch_pretrained: bool = False,
    ) -> None:
        """Build the network with random weights, or with pretrained ones but for the last layer.

        Args:
            config: Architecture and input.
            classes: At least two names.
            positive: One of them, or None.
            warnings: Kept with the model.
            fetch_pretrained: Take the pretrained weights from the local cache or the network, if
                the configuration asks for them; a saved model brings its own.

        Raises:
            ConfigError: if the positive class is none of the classes, a library is missing, or
                pretrained weights cannot be had.
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
        self.network = build_network(config, len(classes), fetch_pretrained=fetch_pretrained)
        mean, std = pixel_statistics(config, self.network)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @property
    def feature_layer(self) -> nn.Module:
        """The last layer whose output is a map of features (B, D, h, w), as Grad-CAM needs it.

        Raises:
            ConfigError: if the network is a transformer: its features are no convolution's maps.
        """
        name = self.config.architecture
        if name not in CNNS:
            raise ConfigError(
                f"{name} has no convolutional feature maps; use one of {', '.join(CNNS)}"
            )
        network: Any = self.network
        layer: nn.Module = network.layer4 if name in RESNETS else network.bn2
        return layer

    def features(self, x: Images) -> Float[Tensor, "B D"]:
        """Return the pooled features that the last layer separates, of images in [-1, 1]."""
        network: Any = self.network
        head = network.fc if self.config.architecture in RESNETS else network.get_classifier()
        kept: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
        try:
            self(x)
        finally:
            hook.remove()
        return kept[0].float()

    def forward(self, x: Images) -> Scores:
        """Return the logits of images in [-1, 1], (B, C, S, S) with the model's C and S."""
        logits: Tensor = self.network((x.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return logits.float()

    @torch.no_grad()
    def probabilities(self, x: Images) -> Scores:
        """Return the softmax of the logits; rows sum to 1, but nothing has calibrated them.

        Args:
            x: Images in [-1, 1], (B, C, S, S), as `preprocess` makes them; the model in eval mode.
        """
        softmax: Tensor = self(x).softmax(dim=1)
        return softmax

    def preprocess(self, pixels: Pixels) -> Float[np.ndarray, "C S S"]:
        """Return a decoded image (uint8 or uint16) as float32 in [-1, 1], in the model's size."""
        return to_model_range(self.pixels.store(pixels))

    def save(self, folder: Path) -> str:
        """Write weights and card into a new or empty folder; return the weights' hash."""
        digest = write_weights(self.state_dict(), folder)
        card = BaselineCard(
            format_version=FORMAT_VERSION,
            kind=KIND,
            classes=self.classes,
            positive=self.positive,
            sha256=digest,
            model=self.config,
            warnings=self.warnings,
        )
        write_json(folder / CARD_FILE, card.model_dump(mode="json"))
        return digest

    @staticmethod
    def load(path: Path | str) -> "Baseline":
        """Return the model of a run folder (its best checkpoint) or of one checkpoint folder.

        The model is in eval mode.

        Raises:
            CheckpointError: if the folder has no baseline, or its files are damaged, of a newer
                format, or do not belong together.
        """
        folder = find_checkpoint(Path(path))
        card = read_card(folder / CARD_FILE, BaselineCard, KIND)
        if card.positive is not None and card.positive not in card.classes:
            raise CheckpointError(
                f"{folder / CARD_FILE}: positive class '{card.positive}' is not one of "
                f"{', '.join(card.classes)}; copy it again"
            )
        model = Baseline(card.model, card.classes, card.positive, card.warnings)
        read_weights(model, folder, card.sha256)
        model.sha256 = card.sha256
        return model.eval()


def is_baseline(path: Path | str) -> bool:
    """Say whether a run or checkpoint folder holds a baseline.

    Raises:
        CheckpointError: if it holds no model, or a damaged card.
    """
    return model_kind(path) == KIND
