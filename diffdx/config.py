"""What determines a run: one validated, readable configuration.

Values are resolved in this order, later ones winning: the preset, `--config FILE.yaml`,
`--set section.key=value`, the command's own options. An unknown key stops the run.
"""

import math
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diffdx.errors import ConfigError

FORMAT_VERSION = 1
"""Version of the checkpoint format; a newer one is refused."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """How images become network input."""

    image_size: int = Field(64, ge=8, le=1024, multiple_of=2)
    channels: Literal[1, 3] = 1
    resize: Literal["squash", "pad"] = "squash"
    wavelet: Literal["haar", "none"] = "haar"
    band_scaling: Literal["unit_variance", "none"] = "unit_variance"


class ScheduleConfig(_Section):
    """Shifted cosine schedule; log-SNRs in nats."""

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    shift: float = 0.0

    @model_validator(mode="after")
    def _check_order(self) -> "ScheduleConfig":
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError("logsnr_min must be below logsnr_max")
        return self


class UNetConfig(_Section):
    """Size of the UNet; channels from the highest resolution to the lowest."""

    name: Literal["unet"] = "unet"
    channels: tuple[int, ...] = Field((32, 64, 128, 192), min_length=1)
    layers_per_block: int = Field(1, ge=1)
    attention: bool = True
    attention_head_dim: int = Field(32, ge=1)
    norm_groups: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    class_levels: int | None = Field(None, ge=1)
    """Up levels, counted from the output, that are told the class; None tells every block."""

    @model_validator(mode="after")
    def _check_widths(self) -> "UNetConfig":
        if any(width < 1 or width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels must be multiples of norm_groups ({self.norm_groups})")
        if self.attention and self.channels[-1] < self.attention_head_dim:
            raise ValueError(
                "the last of channels, where the attention is, must not be below "
                f"attention_head_dim ({self.attention_head_dim})"
            )
        if self.class_levels is not None and self.class_levels > len(self.channels):
            raise ValueError(f"class_levels must not exceed the {len(self.channels)} levels")
        return self


class ConditionalUNetConfig(_Section):
    """Size of the paper's UNet; channels from the highest resolution to the lowest."""

    name: Literal["conditional_unet"] = "conditional_unet"
    channels: tuple[int, ...] = Field((32, 64), min_length=1)
    layers_per_block: int = Field(1, ge=1)
    class_level: int = Field(1, ge=0)
    """The one level with cross-attention to the class, 0 the highest resolution."""
    class_width: int = Field(32, ge=1)
    attention_heads: int = Field(4, ge=1)
    norm_groups: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _check_widths(self) -> "ConditionalUNetConfig":
        if any(width < 1 or width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels must be multiples of norm_groups ({self.norm_groups})")
        if self.class_level >= len(self.channels):
            raise ValueError(f"class_level must be below the {len(self.channels)} levels")
        if any(self.channels[i] % self.attention_heads for i in (self.class_level, -1)):
            raise ValueError(
                "channels of the class_level and of the last level, where the attention is, must "
                f"be multiples of attention_heads ({self.attention_heads})"
            )
        return self


class DiTConfig(_Section):
    """Size of the diffusion transformer."""

    name: Literal["dit"] = "dit"
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    head_dim: int = Field(32, ge=2, multiple_of=2)
    patch_px: int = Field(4, ge=1)


BackboneConfig = Annotated[
    UNetConfig | ConditionalUNetConfig | DiTConfig, Field(discriminator="name")
]
_BACKBONES = ("unet", "conditional_unet", "dit")


class ModelConfig(_Section):
    """Everything that rebuilds the network and its input; saved in every checkpoint."""

    data: DataConfig = DataConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    backbone: BackboneConfig = UNetConfig()

    @field_validator("backbone", mode="before")
    @classmethod
    def _name_the_default(cls, backbone: Any) -> Any:
        return {"name": "unet"} | backbone if isinstance(backbone, dict) else backbone


class AugmentConfig(_Section):
    """Random changes of a training image; each is uniform within plus or minus its value."""

    rotate_degrees: float = Field(7.0, ge=0)
    zoom: float = Field(0.1, ge=0, lt=1)
    shift: float = Field(0.05, ge=0, lt=1)
    flip: bool = False


class EMAConfig(_Section):
    """Moving average of all weights, beta_n = min(beta, 1 - (1 + n / inv_gamma)^-power)."""

    beta: float = Field(0.999, gt=0, lt=1)
    update_after_step: int = Field(0, ge=0)
    update_every: int = Field(1, ge=1)
    inv_gamma: float = Field(9.0, gt=0)
    power: float = Field(1.0, gt=0)


class TrainConfig(_Section):
    """Optimisation. Exactly one of steps, images_seen and minutes ends the run."""

    batch_size: int = Field(32, ge=1)
    steps: int | None = Field(None, ge=1)
    images_seen: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    learning_rate_decay: Literal["cosine", "none"] = "cosine"
    warmup_steps: int = Field(250, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    weighting: Literal["min_snr", "uniform"] = "min_snr"
    min_snr_gamma: float = Field(5.0, gt=0)
    label_dropout: float = Field(0.1, ge=0, lt=1)
    balanced: bool = True
    augment: AugmentConfig = AugmentConfig()
    ema: EMAConfig = EMAConfig()
    checkpoint_every: int = Field(500, ge=1)
    validate_every: int = Field(500, ge=1)
    validation_trials: int = Field(11, ge=1)
    validation_images: int = Field(256, ge=1)
    max_bad_steps: int = Field(10, ge=1)


class RunConfig(_Section):
    """A whole training run."""

    preset: str = "small"
    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


# Spec sections 1 and 2, paper appendix B: images, schedule and optimiser of both of its networks.
_PAPER_DATA = {"image_size": 256, "channels": 3, "wavelet": "haar", "band_scaling": "none"}
_PAPER_SCHEDULE = {"logsnr_min": -15.0, "logsnr_max": 15.0, "shift": 2 * math.log(64 / 256)}
_PAPER_TRAIN = {
    "batch_size": 128,
    "learning_rate": 1e-4,
    "learning_rate_decay": "none",
    "ema": {"update_after_step": 50, "update_every": 5, "inv_gamma": 1.0, "power": 2 / 3},
}

PRESETS: dict[str, dict[str, Any]] = {
    # name: overrides of RunConfig. Measured: see benchmarks/results/presets.json.
    "tiny": {
        "model": {
            "data": {"image_size": 32},
            "backbone": {"channels": (32, 64, 96)},
        },
    },
    "small": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (32, 64, 128, 192)},
        },
    },
    "small-late": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (32, 64, 128, 192), "class_levels": 4},
        },
    },
    "base": {
        "model": {
            "data": {"image_size": 128},
            "backbone": {"channels": (64, 128, 192, 256), "layers_per_block": 2},
        },
    },
    "paper-unet": {
        "model": {
            "data": _PAPER_DATA,
            "schedule": _PAPER_SCHEDULE,
            "backbone": {
                "name": "conditional_unet",
                "channels": (128, 128, 256, 512, 1024),
                "layers_per_block": 2,
                "class_level": 3,
                "class_width": 512,
                "attention_heads": 8,
                "norm_groups": 32,
            },
        },
        "train": _PAPER_TRAIN,
    },
    "paper-dit": {
        "model": {
            "data": _PAPER_DATA,
            "schedule": _PAPER_SCHEDULE,
            "backbone": {"name": "dit", "layers": 12, "heads": 12, "head_dim": 64, "patch_px": 4},
        },
        "train": _PAPER_TRAIN,
    },
}


def preset_for_size(image_size: int | None) -> str:
    """Return the preset made for images of this side in pixels; `small` if it is not given."""
    if image_size is None:
        return "small"
    return "tiny" if image_size <= 32 else "small" if image_size <= 64 else "base"


def resolve_config(
    preset: str,
    *,
    defaults: dict[str, Any] | None = None,
    file: Path | None = None,
    assignments: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration from defaults, preset, file, assignments and options, in that order.

    Args:
        preset: A name in PRESETS.
        defaults: Dotted names and values that everything else overrides, as measured on the data.
        file: YAML with the layout of RunConfig.
        assignments: Texts like `train.batch_size=64`; values are read as YAML.
        options: Dotted names and values given as command options; None means not given.

    Raises:
        ConfigError: for an unknown preset, key or value; the message names it.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset '{preset}'; choose one of {', '.join(PRESETS)}")
    values: dict[str, Any] = {"preset": preset}
    for name, value in (defaults or {}).items():
        _assign(values, name, value)
    _merge(values, PRESETS[preset])
    if file is not None:
        _merge(values, _read_yaml(file))
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs name=value, got '{text}'")
        try:
            _assign(values, name, yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: '{value}' is no YAML value; quote it") from None
    for name, value in (options or {}).items():
        if value is not None:
            _assign(values, name, value)
    return validate_config(RunConfig, values, source=str(file or f"preset {preset}"))


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate_config(kind: type[ModelT], values: Any, *, source: str) -> ModelT:
    """Return `values` as a `kind`, or raise a ConfigError that names each bad key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # pydantic names the variant of the backbone as if it were a section; no file has it.
        lines = [
            f"{'.'.join(str(part) for part in e['loc'] if part not in _BACKBONES)}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(f"configuration ({source}): " + "; ".join(lines)) from None


def _merge(base: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        before = base.get(key)
        # Another backbone (the only section with a name) has sizes of other names.
        if isinstance(value, dict) and isinstance(before, dict) and not _renamed(before, value):
            _merge(before, value)
        else:
            base[key] = deepcopy(value)


def _renamed(before: dict[str, Any], update: dict[str, Any]) -> bool:
    return "name" in update and update["name"] != before.get("name", "unet")


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"unknown configuration key '{dotted}'")
    values[key] = value


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {file} must be a mapping of sections")
    return values
