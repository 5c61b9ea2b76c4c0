"""A small Stable Diffusion pipeline with random weights, in diffusers' format.

The same classes as the public checkpoints (CLIP text encoder and tokenizer, KL autoencoder, UNet
with cross-attention, a discrete scheduler), small enough for a CPU. The tokenizer's vocabulary is
the 26 letters, each inside and at the end of a word, and two marks: 54 tokens; with `words`, each
of them is a token too. It stands for the public checkpoint where that is too large.
"""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import diffdx.backbones  # noqa: F401  (mends torchvision before diffusers loads it)

# isort: split
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MARKS = ("<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Size:
    """Widths of a pipeline; the defaults are for tests, and take milliseconds."""

    unet: tuple[int, ...] = (8, 16)
    vae: tuple[int, ...] = (8, 16)
    text_width: int = 16
    text_layers: int = 2
    latent_channels: int = 4
    latent_side: int = 8
    norm_groups: int = 4
    head_dim: int = 4
    tokens: int = 77


def tokenizer_of(words: Sequence[str], tokens: int) -> CLIPTokenizer:
    """Return a tokenizer of letters in which each of these words is one token."""
    letters = string.ascii_lowercase
    vocabulary = {t: i for i, t in enumerate([*letters, *(f"{c}</w>" for c in letters), *MARKS])}
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        left = parts[0]
        for right in parts[1:]:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
            left += right
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


def random_pipeline(
    folder: Path,
    size: Size | None = None,
    *,
    prediction: str = "epsilon",
    words: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write a pipeline with random weights."""
    size = size or Size()
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(words, size.tokens)
    end = tokenizer.convert_tokens_to_ids(MARKS[1])
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.text_width,
            intermediate_size=4 * size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=2,
            max_position_embeddings=size.tokens,
            bos_token_id=tokenizer.convert_tokens_to_ids(MARKS[0]),
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    save_pipeline(
        folder,
        tokenizer,
        text_encoder,
        new_vae(size),
        new_unet(size),
        DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )


def new_vae(size: Size) -> AutoencoderKL:
    """Return an autoencoder with random weights."""
    levels = len(size.vae)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=size.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=size.latent_channels,
        norm_num_groups=size.norm_groups,
        sample_size=size.latent_side * 2 ** (levels - 1),
    )


def new_unet(size: Size) -> UNet2DConditionModel:
    """Return a network with random weights, attending to the text at every level but the last."""
    plain = len(size.unet) - 1
    return UNet2DConditionModel(
        sample_size=size.latent_side,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        block_out_channels=size.unet,
        down_block_types=("CrossAttnDownBlock2D",) * plain + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * plain,
        layers_per_block=1,
        cross_attention_dim=size.text_width,
        attention_head_dim=size.head_dim,
        norm_num_groups=size.norm_groups,
    )


def save_pipeline(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> None:
    """Write the parts in the layout that `StableDiffusionPipeline.from_pretrained` reads."""
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": vae,
        "unet": unet,
        "scheduler": scheduler,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    libraries = {
        name: ["transformers" if name in ("tokenizer", "text_encoder") else "diffusers", kind]
        for name, kind in ((name, type(part).__name__) for name, part in parts.items())
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        **libraries,
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
