"""A Stable Diffusion checkpoint in diffusers' format: found, and refused unless it is understood.

Understood are pipelines of one text encoder, a UNet told by cross-attention alone, a KL autoencoder
and a variance-preserving scheduler that predicts eps or v: Stable Diffusion 1.x and 2.x. Others
(SDXL, SD 3, flow matching, inpainting) are refused, since their inputs would be guesses.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffdx.config import DiscreteScheduleConfig
from diffdx.errors import CheckpointError, ConfigError

SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete"),
        *("HeunDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep"),
        *("UniPCMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
    )
)
PREDICTIONS: dict[str, Literal["eps", "v"]] = {"epsilon": "eps", "v_prediction": "v"}
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"} | {
    "text_encoder": "model"
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checkpoint whose parts are understood.

    Attributes:
        folder: Where it lies.
        unet: diffusers' configuration of the network.
        vae: diffusers' configuration of the autoencoder.
        schedule: Its noise levels.
        prediction: What the network predicts.
    """

    folder: Path
    unet: dict[str, Any]
    vae: dict[str, Any]
    schedule: DiscreteScheduleConfig
    prediction: Literal["eps", "v"]


def locate(base: str) -> Path:
    """Return the folder of a local checkpoint, or download one by its hub id.

    Raises:
        ConfigError: if there is no such folder and the hub cannot be reached or does not know it.
    """
    if Path(base).is_dir():
        return Path(base)
    if not _HUB_ID.fullmatch(base):
        raise ConfigError(f"--base {base}: no such folder; give a diffusers folder or a hub id")
    from huggingface_hub import HfApi, snapshot_download

    wanted = [f"{part}/*" for part in ("scheduler", "tokenizer")] + ["model_index.json"]
    wanted += [f"{part}/{name}" for part, stem in WEIGHTS.items() for name in _files(stem)]
    try:
        return Path(snapshot_download(base, allow_patterns=wanted, local_files_only=True))
    except Exception:
        pass  # not downloaded before
    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise OSError("HF_HUB_OFFLINE is set")
        # One short request first: a download would try again for minutes.
        HfApi().model_info(base, timeout=_HUB_SECONDS)
        return Path(snapshot_download(base, allow_patterns=wanted))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"--base {base} is no folder and cannot be had from the hub ({reason}); on a connected "
            f"machine run 'hf download {base} --local-dir FOLDER', copy FOLDER here, and give "
            "--base FOLDER"
        ) from None


def _files(stem: str) -> tuple[str, str]:
    return "config.json", f"{stem}.safetensors"


def open_checkpoint(base: str) -> BaseCheckpoint:
    """Return the description of a checkpoint, after checking that each part is understood.

    Args:
        base: Folder, or hub id.

    Raises:
        ConfigError: if it cannot be found.
        CheckpointError: if a file is missing, damaged or pickled, or a part is not understood.
    """
    folder = locate(base)
    pipeline = _read(folder / "model_index.json")
    if pipeline.get("_class_name") != "StableDiffusionPipeline":
        raise CheckpointError(
            f"{folder}/model_index.json: {pipeline.get('_class_name')} is not understood; give a "
            "StableDiffusionPipeline (Stable Diffusion 1.x or 2.x)"
        )
    for part in WEIGHTS:
        weights_file(folder / part)
    unet, vae = (_read(folder / part / "config.json") for part in ("unet", "vae"))
    _check_networks(folder, unet, vae)
    schedule, prediction = _schedule(folder / "scheduler" / "scheduler_config.json")
    return BaseCheckpoint(folder, unet, vae, schedule, prediction)


def weights_file(part: Path) -> Path:
    """Return the safetensors file of a part of a checkpoint.

    Raises:
        CheckpointError: if there is none, since pickled weights can run any code.
    """
    stem = WEIGHTS[part.name]
    file = part / f"{stem}.safetensors"
    if file.is_file():
        return file
    for pickled in (part / f"{stem}.bin", part / "pytorch_model.bin"):
        if pickled.is_file():
            raise CheckpointError(
                f"{pickled} is a pickle, which can run any code when it is opened; "
                f"turn it into safetensors with 'diffdx convert {pickled} {file}'"
            )
    raise CheckpointError(f"{file} is missing; save the checkpoint again in one file per part")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(
            f"{path} is missing or damaged; give a folder in diffusers' format"
        ) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object; copy the checkpoint again")
    return values


def _check_networks(folder: Path, unet: dict[str, Any], vae: dict[str, Any]) -> None:
    expected = {
        ("unet", "_class_name"): (unet.get("_class_name"), "UNet2DConditionModel"),
        ("vae", "_class_name"): (vae.get("_class_name"), "AutoencoderKL"),
        ("unet", "in_channels"): (unet.get("in_channels", 4), vae.get("latent_channels", 4)),
        ("unet", "out_channels"): (unet.get("out_channels", 4), vae.get("latent_channels", 4)),
        ("vae", "shift_factor"): (vae.get("shift_factor"), None),
    }
    for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type"):
        expected["unet", name] = unet.get(name), None
    for (part, name), (found, wanted) in expected.items():
        if found != wanted:
            raise CheckpointError(
                f"{folder}/{part}/config.json: {name} is {found}, understood is {wanted}; give a "
                "text-to-image checkpoint of Stable Diffusion 1.x or 2.x"
            )


def _schedule(path: Path) -> tuple[DiscreteScheduleConfig, Literal["eps", "v"]]:
    values = _read(path)
    kind = values.get("_class_name")
    if kind not in SCHEDULERS:
        raise CheckpointError(f"{path}: scheduler {kind} is unknown; use DDPMScheduler's file")
    prediction = values.get("prediction_type", "epsilon")
    betas = values.get("beta_schedule", "linear")
    for name, found, known in (
        ("prediction_type", prediction, tuple(PREDICTIONS)),
        ("beta_schedule", betas, BETAS),
        ("trained_betas", values.get("trained_betas"), (None,)),
        ("rescale_betas_zero_snr", values.get("rescale_betas_zero_snr", False), (False,)),
    ):
        if found not in known:
            raise CheckpointError(f"{path}: {name} {found} is not understood, only {known}")
    try:
        schedule = DiscreteScheduleConfig(
            beta_schedule=betas,
            beta_start=values.get("beta_start", 0.0001),
            beta_end=values.get("beta_end", 0.02),
            num_levels=values.get("num_train_timesteps", 1000),
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: {reason}; copy the checkpoint again") from None
    return schedule, PREDICTIONS[prediction]
