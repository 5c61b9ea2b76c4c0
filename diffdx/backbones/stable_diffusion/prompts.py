"""Prompts that stand for classes: read, checked, and embedded once.

A class's text is the mean of its prompts' embeddings, token by token, so several prompts cost no
more network calls than one. The null label is the empty prompt, as classifier-free guidance of
Stable Diffusion has it. After this the text encoder is needed no more: embeddings are saved with
the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from diffdx.errors import CheckpointError, ConfigError

Prompts = Mapping[str, Sequence[str]]
Texts = Float[Tensor, "labels tokens width"]


def read_prompts(file: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the prompts of each class from a YAML file, `CLASS: prompt` or `CLASS: [prompt, ...]`.

    Raises:
        ConfigError: if the file cannot be read, or does not have prompts for exactly these classes.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read prompts {file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"prompts {file} must be a mapping of class to prompt")
    prompts = {}
    for name, texts in values.items():
        listed = [texts] if isinstance(texts, str) else texts
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise ConfigError(f"prompts {file}: class '{name}' needs a text or a list of texts")
        prompts[str(name)] = tuple(listed)
    check_prompts(prompts, classes, source=str(file))
    return {name: prompts[name] for name in classes}


def check_prompts(prompts: Prompts, classes: Sequence[str], *, source: str) -> None:
    """Check that each class has prompts, and prompts of its own.

    Raises:
        ConfigError: naming the class.
    """
    unknown = sorted(prompts.keys() - set(classes))
    if unknown:
        raise ConfigError(f"prompts {source}: no class is called {', '.join(unknown)}")
    owner: dict[str, str] = {}
    for name in classes:
        texts = [" ".join(text.lower().split()) for text in prompts.get(name, ())]
        if not texts or not all(texts):
            raise ConfigError(f"prompts {source}: class '{name}' has no prompt; add one")
        for text in texts:
            if owner.setdefault(text, name) != name:
                raise ConfigError(
                    f"prompts {source}: classes '{owner[text]}' and '{name}' share the prompt "
                    f"'{text}'; no image could tell them apart"
                )


@torch.no_grad()
def embed_prompts(folder: Path, prompts: Prompts, classes: Sequence[str]) -> Texts:
    """Return the texts of the classes in their order, and of the null label.

    Args:
        folder: The checkpoint, with `tokenizer` and `text_encoder`.
        prompts: Of each class.
        classes: In the order of the labels.

    Raises:
        ConfigError: if transformers is not installed, or a prompt is too long.
        CheckpointError: if tokenizer or text encoder cannot be used.
    """
    tokenizer, encoder = _load(folder)

    def embed(text: str) -> Tensor:
        limit = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=limit, return_tensors="pt").input_ids
        if ids.shape[1] > limit:
            raise ConfigError(
                f"prompt '{text}' has {ids.shape[1]} tokens, the text encoder reads {limit}; "
                "shorten it"
            )
        hidden: Tensor = encoder(ids).last_hidden_state[0].float()
        return hidden

    texts = [torch.stack([embed(text) for text in prompts[name]]).mean(0) for name in classes]
    return torch.stack([*texts, embed("")])


def _load(folder: Path) -> tuple[Any, Any]:
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise ConfigError("prompts need transformers: pip install 'diffdx[sd]'") from None
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        loaded: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        encoder, report = loaded
    except Exception as error:  # each library has errors of its own for damaged files
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder}: tokenizer or text_encoder cannot be read ({reason}); copy it again"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing or not all(bool(torch.isfinite(p).all()) for p in encoder.parameters()):
        raise CheckpointError(
            f"{folder}/text_encoder: weights are missing ({', '.join(missing[:3]) or 'none'}) or "
            "not finite; copy it again"
        )
    return tokenizer, encoder.eval()
