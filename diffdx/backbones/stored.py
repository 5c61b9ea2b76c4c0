"""A model on disk: a folder with its weights and its card, whatever kind of model it is.

    model.safetensors   parameters and buffers
    model.json          the card: format version, classes, configuration, hash of the weights

Loading refuses what is damaged or does not belong together, and says what.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn

from diffdx._files import sha256, sync
from diffdx.config import FORMAT_VERSION, validate_config
from diffdx.errors import CheckpointError, ConfigError

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"

Kind = Literal["diffusion", "baseline"]
NAMES: dict[str, tuple[str, str]] = {
    "diffusion": ("diffusion model", "diffdx train"),
    "baseline": ("baseline", "diffdx baseline"),
}
"""What a model of each kind is called, and the command that writes one."""


class Card(BaseModel):
    """What `model.json` says of a model of any kind."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    classes: tuple[str, ...]
    positive: str | None
    sha256: str
    warnings: tuple[str, ...] = ()


CardT = TypeVar("CardT", bound=Card)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder meant by a run folder or a checkpoint folder.

    Raises:
        CheckpointError: if neither `model.json` nor `checkpoints/best` or `last` is there.
    """
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (folder / CARD_FILE).is_file():
            return folder
    raise CheckpointError(
        f"{path} holds no model: expected {CARD_FILE} in it or in its checkpoints/best. "
        "Name a folder written by 'diffdx train'"
    )


def model_kind(path: Path | str) -> str:
    """Return which kind of model a run or checkpoint folder holds, as its card says.

    Raises:
        CheckpointError: if it holds no model, or its card is damaged.
    """
    return str(_card_values(find_checkpoint(Path(path)) / CARD_FILE).get("kind", "diffusion"))


def read_card(path: Path, form: type[CardT], kind: Kind) -> CardT:
    """Return the card of a model of this kind; one that names none is a diffusion model's.

    Raises:
        CheckpointError: if it is damaged, another kind's, or of a newer format.
    """
    values = _card_values(path)
    found, version = values.get("kind", "diffusion"), values["format_version"]
    if found != kind:
        wanted, command = NAMES[kind]
        what = NAMES[found][0] if found in NAMES else found
        raise CheckpointError(f"{path}: a {what}, no {wanted}; name a folder of '{command}'")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this diffdx reads {FORMAT_VERSION}; "
            "install the version that wrote it"
        )
    try:
        return validate_config(form, values, source=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _card_values(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"format_version": values["format_version"], **values}
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged; copy the checkpoint again") from None


def write_weights(tensors: Mapping[str, torch.Tensor], folder: Path) -> str:
    """Write tensors into a new or existing folder; return the file's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS_FILE
    # save_file would make the file readable by its owner alone.
    path.write_bytes(
        serialize({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    )
    sync(path)
    return sha256(path)


def read_weights(module: nn.Module, folder: Path, expected_sha256: str) -> None:
    """Load the weights of a folder into a module of the same structure, in the module's precision.

    Raises:
        CheckpointError: if the file is damaged or not the one that the card names, or its tensors
            are not those of the module, or not finite.
    """
    path = folder / WEIGHTS_FILE
    try:
        if sha256(path) != expected_sha256:
            raise CheckpointError(
                f"{path} is damaged or was replaced: its SHA-256 is not the one in {CARD_FILE}; "
                "copy the checkpoint again or use another one of the run"
            )
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again") from None
    expected = module.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in expected
        or name not in tensors
        or expected[name].shape != tensors[name].shape
        or not bool(torch.isfinite(tensors[name]).all())
    )
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors are missing, unknown, misshapen or not finite, "
            f"first {', '.join(wrong[:3])}; use the checkpoint's own {CARD_FILE}"
        )
    module.load_state_dict(tensors)
