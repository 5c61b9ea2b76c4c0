"""The parts of a diffusion model, from its configuration: schedule, coordinates, network."""

from dataclasses import dataclass

from diffdx.backbones.conditional_unet import ConditionalUNetDenoiser
from diffdx.backbones.denoiser import Denoiser
from diffdx.backbones.dit import DiTDenoiser
from diffdx.backbones.stable_diffusion.denoiser import StableDiffusionDenoiser
from diffdx.backbones.stable_diffusion.latents import LatentCoordinates
from diffdx.backbones.unet import UNetDenoiser
from diffdx.config import (
    ConditionalUNetConfig,
    DiscreteScheduleConfig,
    DiTConfig,
    ModelConfig,
    ScheduleConfig,
    StableDiffusionConfig,
    UNetConfig,
)
from diffdx.diffusion.discrete import DiscreteSchedule
from diffdx.diffusion.schedule import NoiseSchedule, ShiftedCosine
from diffdx.errors import ConfigError
from diffdx.transforms.coordinates import Coordinates, Transform


@dataclass(frozen=True)
class Parts:
    """What a model is made of, with random weights.

    Attributes:
        schedule: Time <-> log-SNR.
        transform: Model range <-> network's coordinates.
        denoiser: The network behind its one call.
        shape: (C, H, W) of one image in the network's coordinates.
    """

    schedule: NoiseSchedule
    transform: Transform
    denoiser: Denoiser
    shape: tuple[int, int, int]


def build_parts(config: ModelConfig, num_classes: int) -> Parts:
    """Return the parts that a configuration names, for K = `num_classes` classes.

    Raises:
        ConfigError: if the image size does not suit the coordinates.
    """
    schedule = build_schedule(config.schedule)
    data, transform = config.data, _transform(config)
    factor = transform.factor if isinstance(transform, LatentCoordinates) else 1
    factor *= 2 if data.wavelet == "haar" else 1
    if data.image_size % factor:
        raise ConfigError(
            f"model.data.image_size {data.image_size} is no multiple of {factor}, by which the "
            "network's coordinates are smaller; choose another --image-size"
        )
    side_px = data.image_size // factor
    shape = (transform.channels, side_px, side_px)
    return Parts(schedule, transform, _denoiser(config, shape, num_classes, schedule), shape)


def build_schedule(config: ScheduleConfig | DiscreteScheduleConfig) -> NoiseSchedule:
    """Return the noise schedule of a configuration."""
    values = config.model_dump(exclude={"name"})
    if isinstance(config, DiscreteScheduleConfig):
        return DiscreteSchedule(**values)
    return ShiftedCosine(**values)


def _transform(config: ModelConfig) -> Transform:
    if isinstance(config.backbone, StableDiffusionConfig):
        return LatentCoordinates(config.backbone.vae)
    data = config.data
    return Coordinates(data.channels, data.wavelet, data.band_scaling)


def _denoiser(
    config: ModelConfig, shape: tuple[int, int, int], num_classes: int, schedule: NoiseSchedule
) -> Denoiser:
    size = {"in_channels": shape[0], "side_px": shape[1], "num_classes": num_classes}
    match config.backbone:
        case UNetConfig() as backbone:
            return UNetDenoiser(backbone, schedule=schedule, **size)
        case ConditionalUNetConfig() as backbone:
            return ConditionalUNetDenoiser(backbone, schedule=schedule, **size)
        case DiTConfig() as backbone:
            return DiTDenoiser(backbone, schedule=schedule, **size)
        case StableDiffusionConfig() as backbone:
            assert isinstance(schedule, DiscreteSchedule)
            return StableDiffusionDenoiser(backbone, num_classes=num_classes, schedule=schedule)
