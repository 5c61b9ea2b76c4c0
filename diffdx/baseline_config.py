"""What determines a run of a discriminative baseline (paper 3.2, appendix B.1, B.2).

    paper     Adam, batch 64; CNNs: learning rate 1e-4, weight decay 1e-3 (X-rays) or 1e-5 (skin);
              transformers: learning rate 1e-5, no weight decay; rotation by up to 30 degrees,
              horizontal and vertical flips, Gaussian blur; from random weights
    release   as the authors' code: weights pretrained on ImageNet (which the paper does not say),
              augmentation of X-rays only, no early stopping

The paper has two sets of images. Here grey ones are treated as its X-rays, and coloured ones as its
skin lesions. Neither text gives a length: without one a run lasts for 100 epochs, as the release.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from diffdx._layers import merge, overridden
from diffdx.config import AugmentConfig, LoopConfig, Section, validate_config

Architecture = Literal[
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "efficientnet_b4",
    "vit_small",
    "vit_base",
    "swin_base",
]
Recipe = Literal["paper", "release"]

RESNETS = ("resnet18", "resnet50")
CNNS = (*RESNETS, "efficientnet_b0", "efficientnet_b4")
EPOCHS = 100
"""Length of a run that is given none."""


class InputConfig(Section):
    """How images become network input."""

    image_size: int = Field(64, ge=16, le=1024, multiple_of=2)
    channels: Literal[1, 3] = 1
    """Of the stored images; the network is given three."""
    resize: Literal["squash", "pad"] = "squash"


class BaselineModelConfig(Section):
    """Everything that rebuilds the network and its input; saved in every checkpoint."""

    data: InputConfig = InputConfig()
    architecture: Architecture = "resnet18"
    pretrained: bool = False
    """Whether training starts from ImageNet weights; images are scaled as those expect."""
    stem: Literal["standard", "small"] = "standard"
    """`small` reduces an image four times less: 64 px are to the network what 256 px were."""

    @model_validator(mode="after")
    def _check_stem(self) -> "BaselineModelConfig":
        if self.stem == "small" and self.architecture.startswith("efficientnet"):
            raise ValueError("an EfficientNet has no small stem; use stem: standard")
        if self.stem == "small" and self.pretrained:
            raise ValueError("pretrained weights do not fit a small stem; use stem: standard")
        return self


class SupervisedAugmentConfig(AugmentConfig):
    """Random changes of a training image, by default the paper's (appendix B.2)."""

    rotate_degrees: float = Field(30.0, ge=0)
    zoom: float = Field(0.0, ge=0, lt=1)
    shift: float = Field(0.0, ge=0, lt=1)
    flip: bool = True
    flip_vertical: bool = True
    blur_sigma_px: tuple[float, float] | None = (0.1, 2.0)


NO_AUGMENTATION: dict[str, Any] = {
    "rotate_degrees": 0.0,
    "flip": False,
    "flip_vertical": False,
    "blur_sigma_px": None,
}


class SupervisedTrainConfig(LoopConfig):
    """Optimisation of a baseline."""

    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(1e-4, gt=0)
    learning_rate_decay: Literal["cosine", "none"] = "none"
    warmup_steps: int = Field(0, ge=0)
    grad_clip: float | None = Field(None, gt=0)
    balanced: bool = False
    """Whether classes take turns in a batch."""
    augment: SupervisedAugmentConfig = SupervisedAugmentConfig()
    validate_every: int = Field(100, ge=1)
    validation_images: int = Field(10_000, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    """Of Adam, added to the gradient."""
    class_weighted_loss: bool = False
    """Whether an image counts inversely to the frequency of its class."""
    patience: int | None = Field(10, ge=1)
    """Validations in a row without a better F1 after which the run ends; None never ends it."""


class BaselineConfig(Section):
    """A whole training run of a baseline."""

    recipe: Recipe = "paper"
    seed: int = Field(0, ge=0)
    model: BaselineModelConfig = BaselineModelConfig()
    train: SupervisedTrainConfig = SupervisedTrainConfig()

    def with_length(self, num_images: int) -> "BaselineConfig":
        """Return the configuration with a length: 100 epochs of so many images if it has none."""
        train = self.train
        if (train.steps, train.images_seen, train.minutes) != (None, None, None):
            return self
        longer = train.model_copy(update={"images_seen": EPOCHS * num_images})
        return self.model_copy(update={"train": longer})


def recipe_values(recipe: Recipe, architecture: str, channels: int) -> dict[str, Any]:
    """Return what a recipe says of an architecture on images of so many channels."""
    is_cnn, is_xray = architecture in CNNS, channels == 1
    train: dict[str, Any] = {"learning_rate": 1e-4 if is_cnn else 1e-5}
    if is_cnn:
        train["weight_decay"] = 1e-3 if is_xray else 1e-5
    if recipe == "paper":
        return {"train": train}
    train["patience"] = None
    if not is_xray:
        train["augment"] = dict(NO_AUGMENTATION)
    return {"train": train, "model": {"pretrained": True}}


def resolve_baseline(
    recipe: Recipe,
    architecture: Architecture,
    *,
    channels: Literal[1, 3],
    file: Path | None = None,
    assignments: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> BaselineConfig:
    """Return the configuration from recipe, file, assignments and options, in that order.

    Args:
        recipe: `paper` or `release`.
        architecture: Which network; its family decides the optimiser.
        channels: Of the images, as measured on them.
        file: YAML with the layout of `BaselineConfig`.
        assignments: Texts like `train.batch_size=32`; values are read as YAML.
        options: Dotted names and values given as command options; None means not given.

    Raises:
        ConfigError: for an unknown key or value; the message names it.
    """
    model = {"architecture": architecture, "data": {"channels": channels}}
    start: dict[str, Any] = {"recipe": recipe, "model": model, "train": {}}
    given = (file, assignments, options)
    source = str(file or f"recipe {recipe}")
    chosen = validate_config(BaselineConfig, overridden(start, *given), source=source)
    network = chosen.model
    merge(start, recipe_values(chosen.recipe, network.architecture, network.data.channels))
    return validate_config(BaselineConfig, overridden(start, *given), source=source)
