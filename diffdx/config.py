"""What determines a run: one validated, readable configuration.

Values are resolved in this order, later ones winning: the preset, `--config FILE.yaml`,
`--set section.key=value`, the command's own options. An unknown key stops the run.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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

    @model_validator(mode="after")
    def _check_widths(self) -> "UNetConfig":
        if any(width < 1 or width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels must be multiples of norm_groups ({self.norm_groups})")
        if self.attention and self.channels[-1] < self.attention_head_dim:
            raise ValueError(
                "the last of channels, where the attention is, must not be below "
                f"attention_head_dim ({self.attention_head_dim})"
            )
        return self


class ModelConfig(_Section):
    """Everything that rebuilds the network and its input; saved in every checkpoint."""

    data: DataConfig = DataConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    backbone: UNetConfig = UNetConfig()


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
    "base": {
        "model": {
            "data": {"image_size": 128},
            "backbone": {"channels": (64, 128, 192, 256), "layers_per_block": 2},
        },
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
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"configuration ({source}): " + "; ".join(lines)) from None


def _merge(base: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = deepcopy(value)


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
