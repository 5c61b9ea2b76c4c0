"""From a Stable Diffusion checkpoint and prompts to a `DiffusionModel`, ready to classify or train.

The model is complete: network, autoencoder, embedded prompts and noise levels are its own, so a run
folder made from it needs neither the checkpoint nor the text encoder again.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.stable_diffusion.checkpoint import BaseCheckpoint
from diffdx.backbones.stable_diffusion.denoiser import StableDiffusionDenoiser
from diffdx.backbones.stable_diffusion.latents import LatentCoordinates
from diffdx.backbones.stable_diffusion.networks import read_state
from diffdx.backbones.stable_diffusion.prompts import Prompts, Texts, embed_prompts
from diffdx.backbones.stable_diffusion.self_test import check_prediction, probe_picture
from diffdx.config import ModelConfig
from diffdx.errors import CheckpointError, ConfigError


def backbone_values(
    base: BaseCheckpoint, name: str, prompts: Prompts, lora_rank: int | None
) -> dict[str, Any]:
    """Return the configuration sections `model.backbone` and `model.schedule` of a checkpoint.

    Args:
        base: The checkpoint.
        name: What the user called it, for the record; of a folder only its own name is kept.
        prompts: Of each class.
        lora_rank: Rank of the adapter to train; None for the whole network.
    """
    clean = [{k: v for k, v in part.items() if k[:1] != "_"} for part in (base.unet, base.vae)]
    backbone = {
        "name": "stable_diffusion",
        "base": Path(name).name if Path(name).is_dir() else name,
        "prediction": base.prediction,
        "prompts": {key: list(texts) for key, texts in prompts.items()},
        "unet": clean[0],
        "vae": clean[1],
        "lora_rank": lora_rank,
    }
    return {"model.backbone": backbone, "model.schedule": base.schedule.model_dump()}


def adopt(
    base: BaseCheckpoint,
    config: ModelConfig,
    classes: tuple[str, ...],
    positive: str | None,
    warnings: tuple[str, ...] = (),
) -> DiffusionModel:
    """Return a model with the checkpoint's weights and the texts of its classes, in eval mode.

    Raises:
        CheckpointError: if the weights are damaged, do not fit, or predict something else than the
            checkpoint declares.
        ConfigError: if prompts cannot be embedded or told apart, or a library is missing.
    """
    assert config.backbone.name == "stable_diffusion"
    texts = embed_prompts(base.folder, config.backbone.prompts, classes)
    _require_different(texts, classes)
    if texts.shape[1] != config.backbone.num_tokens:
        config = _with_tokens(config, texts.shape[1])
    model = DiffusionModel(config, classes, positive, warnings).eval()
    assert isinstance(model.denoiser, StableDiffusionDenoiser)
    assert isinstance(model.transform, LatentCoordinates)
    if texts.shape != model.denoiser.texts.shape:
        raise CheckpointError(
            f"{base.folder}: text_encoder gives {texts.shape[-1]} numbers a token, unet attends to "
            f"{model.denoiser.texts.shape[-1]}; give parts of one checkpoint"
        )
    model.denoiser.texts.copy_(texts)
    vae, unet = model.transform.vae, model.denoiser.unet
    vae.load_state_dict(_weights(base, AutoencoderKL, vae))
    model.denoiser.load_base(_weights(base, UNet2DConditionModel, unet))
    picture = model.transform.encode(probe_picture(config.data.image_size))
    model.warnings += tuple(check_prediction(model.denoiser, picture))
    return model


def _weights(base: BaseCheckpoint, kind: type[nn.Module], own: nn.Module) -> dict[str, Tensor]:
    part = "vae" if kind is AutoencoderKL else "unet"
    return read_state(kind, base.folder / part, most=len(own.state_dict()))


def _with_tokens(config: ModelConfig, num_tokens: int) -> ModelConfig:
    backbone = config.backbone.model_copy(update={"num_tokens": num_tokens})
    return config.model_copy(update={"backbone": backbone})


def _require_different(texts: Texts, classes: tuple[str, ...]) -> None:
    """Check that no two classes have the same text: the tokenizer may read two prompts alike."""
    for k, name in enumerate(classes):
        for j in range(k):
            if torch.equal(texts[k], texts[j]):
                raise ConfigError(
                    f"the text encoder reads the prompts of '{classes[j]}' and '{name}' alike; "
                    "give them other words"
                )
