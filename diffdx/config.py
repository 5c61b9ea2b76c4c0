"""What determines a run: one validated, readable configuration.

Values are resolved in this order, later ones winning: the preset, the recipe,
`--config FILE.yaml`, `--set section.key=value`, the command's own options. An unknown key stops the
run.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diffdx._layers import assign, merge, overridden
from diffdx.errors import ConfigError
from diffdx.presets import FINETUNING, RECIPES
from diffdx.presets import PRESETS as PRESETS
from diffdx.presets import preset_for_size as preset_for_size

FORMAT_VERSION = 1
"""Version of the checkpoint format; a newer one is refused."""


class Section(BaseModel):
    """A part of a configuration: an unknown key stops the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """How images become network input."""

    image_size: int = Field(64, ge=8, le=1024, multiple_of=2)
    channels: Literal[1, 3] = 1
    resize: Literal["squash", "pad"] = "squash"
    wavelet: Literal["haar", "none"] = "haar"
    band_scaling: Literal["unit_variance", "halved", "none"] = "unit_variance"


class ScheduleConfig(Section):
    """Shifted cosine schedule; log-SNRs in nats."""

    name: Literal["shifted_cosine"] = "shifted_cosine"
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    shift: float = 0.0

    @model_validator(mode="after")
    def _check_order(self) -> "ScheduleConfig":
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError("logsnr_min must be below logsnr_max")
        return self


class DiscreteScheduleConfig(Section):
    """The noise levels of a Stable Diffusion checkpoint, from its scheduler's betas."""

    name: Literal["discrete"] = "discrete"
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    num_levels: int = Field(1000, ge=2)


class UNetConfig(Section):
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
    patch_px: int = Field(1, ge=1)
    """Side of the squares whose values become channels; the first level has one position each."""

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


class ConditionalUNetConfig(Section):
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


class DiTConfig(Section):
    """Size of the diffusion transformer."""

    name: Literal["dit"] = "dit"
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    head_dim: int = Field(32, ge=2, multiple_of=2)
    patch_px: int = Field(4, ge=1)


class StableDiffusionConfig(Section):
    """A latent text-to-image model whose prompts stand for classes."""

    name: Literal["stable_diffusion"] = "stable_diffusion"
    base: str
    """Folder or hub id that the weights came from; for the record only."""
    prediction: Literal["eps", "v"]
    prompts: dict[str, tuple[str, ...]]
    """Prompts of each class; several are averaged."""
    unet: dict[str, Any]
    """diffusers' configuration of the network."""
    vae: dict[str, Any]
    """diffusers' configuration of the autoencoder."""
    num_tokens: int = Field(77, ge=1)
    lora_rank: int | None = Field(None, ge=1)
    """Rank of the trained adapter; None trains every weight of the network."""


BackboneConfig = Annotated[
    UNetConfig | ConditionalUNetConfig | DiTConfig | StableDiffusionConfig,
    Field(discriminator="name"),
]
_VARIANTS = ("unet", "conditional_unet", "dit", "stable_diffusion", "shifted_cosine", "discrete")


class EditConfig(Section):
    """What `explain` does unless it is told otherwise; None leaves it to `explain`."""

    logsnr_start: float | None = None
    """Noise level that an edit starts from, in nats."""
    guidance_scale: float | None = Field(None, gt=0, le=20)
    """1 is none."""


class ModelConfig(Section):
    """Everything that rebuilds the network and its input; saved in every checkpoint."""

    data: DataConfig = DataConfig()
    schedule: Annotated[ScheduleConfig | DiscreteScheduleConfig, Field(discriminator="name")] = (
        ScheduleConfig()
    )
    backbone: BackboneConfig = UNetConfig()
    edit: EditConfig = EditConfig()

    @field_validator("backbone", mode="before")
    @classmethod
    def _name_the_network(cls, backbone: Any) -> Any:
        return {"name": "unet"} | backbone if isinstance(backbone, dict) else backbone

    @field_validator("schedule", mode="before")
    @classmethod
    def _name_the_schedule(cls, schedule: Any) -> Any:
        return {"name": "shifted_cosine"} | schedule if isinstance(schedule, dict) else schedule

    @model_validator(mode="after")
    def _check_latents(self) -> "ModelConfig":
        latent = isinstance(self.backbone, StableDiffusionConfig)
        if latent != isinstance(self.schedule, DiscreteScheduleConfig):
            raise ValueError("a discrete schedule and a stable_diffusion backbone go together")
        if latent and (self.data.channels, self.data.wavelet) != (3, "none"):
            raise ValueError("stable_diffusion needs data.channels 3 and data.wavelet none")
        return self


class AugmentConfig(Section):
    """Random changes of a training image; a uniform number within plus or minus a value each.

    Of zoom, octaves, gamma and contrast it is the logarithm that is uniform.
    """

    rotate_degrees: float = Field(7.0, ge=0)
    zoom: float = Field(0.1, ge=0, lt=1)
    shift: float = Field(0.05, ge=0, lt=1)
    """Largest, as a fraction of the side."""
    flip: bool = False
    flip_vertical: bool = False
    blur_sigma_px: tuple[float, float] | None = None
    """Range of the Gaussian's standard deviation in a kernel of 5 px; None does not blur."""
    octaves: float = Field(1.0, ge=1)
    """Largest factor of the amplitudes of each octave of spatial frequency; 1 leaves them."""
    gamma: float = Field(1.0, ge=1)
    """Largest power that brightness in [0, 1] is raised to; 1 leaves it."""
    contrast: float = Field(1.0, ge=1)
    """Largest factor of the distance from mid-grey; 1 leaves it."""

    @model_validator(mode="after")
    def _check_blur(self) -> "AugmentConfig":
        sigma = self.blur_sigma_px
        if sigma is not None and not 0 < sigma[0] <= sigma[1]:
            raise ValueError("blur_sigma_px must be two ascending numbers above 0")
        return self

    @property
    def resamples(self) -> bool:
        """Whether pixels are taken from between pixels."""
        return bool(self.rotate_degrees or self.zoom or self.shift)

    @property
    def only_flips(self) -> bool:
        """Whether an image stays as it is, or is mirrored left to right."""
        plain = self.blur_sigma_px is None and self.octaves == self.gamma == self.contrast == 1
        return plain and not (self.resamples or self.flip_vertical)


class EMAConfig(Section):
    """Moving average of all weights, beta_n = min(beta, 1 - (1 + n / inv_gamma)^-power)."""

    beta: float = Field(0.999, gt=0, lt=1)
    update_after_step: int = Field(0, ge=0)
    update_every: int = Field(1, ge=1)
    inv_gamma: float = Field(9.0, gt=0)
    power: float = Field(1.0, gt=0)
    class_embedding: bool = True
    """Whether label tables are averaged too; if not, they are the raw ones."""


class LoopConfig(Section):
    """What every training loop needs; exactly one of steps, images_seen and minutes ends it."""

    batch_size: int = Field(32, ge=1)
    steps: int | None = Field(None, ge=1)
    images_seen: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    learning_rate_decay: Literal["cosine", "none"] = "cosine"
    warmup_steps: int = Field(250, ge=0)
    grad_clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient; None leaves it as it is."""
    balanced: bool = True
    balanced_style: bool = False
    """Whether, where classes take turns, every second image of a class is one that its style speaks
    against; see `training.style`."""
    augment: AugmentConfig = AugmentConfig()
    checkpoint_every: int = Field(500, ge=1)
    validate_every: int = Field(500, ge=1)
    validation_images: int = Field(256, ge=1)
    max_bad_steps: int = Field(10, ge=1)


class TrainConfig(LoopConfig):
    """Optimisation of a diffusion model."""

    steps: int | None = Field(None, ge=0)
    """0 leaves a fine-tuned model as it came: zero-shot."""
    weighting: Literal["min_snr", "inverse_min_snr", "uniform", "uniform_eps"] = "min_snr"
    min_snr_gamma: float = Field(5.0, gt=0)
    label_dropout: float = Field(0.1, ge=0, lt=1)
    contrastive_weight: float = Field(0.0, ge=0)
    """Of the contrastive term, which nearly doubles the work of a step; 0 leaves it out."""
    contrastive_scale: float = Field(0.05, gt=0)
    """Log ratio of two classes' errors that counts as a clear difference."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    ema: EMAConfig = EMAConfig()
    validation_trials: int = Field(11, ge=1)


class RunConfig(Section):
    """A whole training run."""

    preset: str = "small"
    recipe: Literal["fixed", "denoising", "paper", "release"] = "denoising"
    """Whose values the defaults of all sections are."""
    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


def resolve_config(
    preset: str,
    *,
    recipe: str | None = None,
    defaults: dict[str, Any] | None = None,
    file: Path | None = None,
    assignments: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration from defaults, preset, recipe, file, assignments and options.

    Later ones win. The recipe follows the image size and the network that all of them agree on.

    Args:
        preset: A name in PRESETS or FINETUNING.
        recipe: A name in RECIPES; None is the preset's own.
        defaults: Dotted names and values that everything else overrides, as measured on the data.
        file: YAML with the layout of RunConfig.
        assignments: Texts like `train.batch_size=64`; values are read as YAML.
        options: Dotted names and values given as command options; None means not given.

    Raises:
        ConfigError: for an unknown preset, recipe, key or value; the message names it.
    """
    known = PRESETS | FINETUNING
    if preset not in known:
        raise ConfigError(f"unknown preset '{preset}'; choose one of {', '.join(PRESETS)}")
    start: dict[str, Any] = {"preset": preset, "recipe": "fixed"}
    for name, value in (defaults or {}).items():
        assign(start, name, value)
    merge(start, known[preset])
    if recipe is not None:
        start["recipe"] = recipe
    given = (file, assignments, options)
    values = overridden(start, *given)
    chosen = values["recipe"]
    if not isinstance(chosen, str) or chosen not in RECIPES:
        raise ConfigError(f"unknown recipe '{chosen}'; choose one of {', '.join(RECIPES)}")
    source = str(file or f"preset {preset}")
    model = validate_config(RunConfig, values, source=source).model
    merge(start, RECIPES[chosen](model.data.image_size, model.backbone.name))
    config = validate_config(RunConfig, overridden(start, *given), source=source)
    if config.train.contrastive_weight and config.model.edit.guidance_scale is None:
        # What guidance does while sampling, the contrastive term has done while training.
        edit = config.model.edit.model_copy(update={"guidance_scale": 1.0})
        model = config.model.model_copy(update={"edit": edit})
        config = config.model_copy(update={"model": model})
    return config


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate_config(kind: type[ModelT], values: Any, *, source: str) -> ModelT:
    """Return `values` as a `kind`, or raise a ConfigError that names each bad key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # pydantic names the variant of a section as if it were a section; no file has it.
        lines = [
            f"{'.'.join(str(part) for part in e['loc'] if part not in _VARIANTS)}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(f"configuration ({source}): " + "; ".join(lines)) from None
