"""Training checkpoints: all that an uninterrupted run would still know, and nothing else.

    checkpoints/step-N/   model.safetensors, model.json    averaged weights, ready to use
                          training.safetensors             raw weights, Adam moments, EMA's clock
                          training.json                    counters (`Progress`)
                          manifest.json                    SHA-256 of each of these files
    checkpoints/last      link to the newest               checkpoints/best   link to the best

A folder is written under another name, flushed, and renamed: it is whole or it is not there.
Data order, noise and augmentation are functions of (seed, step), so no random state is stored.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diffdx._files import sha256, sync, write_json
from diffdx.errors import CheckpointError

STATE_FILE = "training.safetensors"
PROGRESS_FILE = "training.json"
MANIFEST_FILE = "manifest.json"
REPLACED = ".old"


@runtime_checkable
class WeightAverage(Protocol):
    """An average of the weights in training: an `EMA`, or what stands in its place."""

    ema_model: Any
    """The model to use, with `save(folder)`."""
    step: torch.Tensor
    initted: torch.Tensor

    def update(self) -> None:
        """Take the weights of a step in."""


@dataclass
class Progress:
    """Counters of a run.

    Attributes:
        step: Optimiser steps done.
        seconds: Time spent training, over all its parts.
        bad_steps: Steps skipped because loss or gradient was not finite.
        best_score: Highest validation score so far.
        best_step: Step of that score.
        validated_step: Step of the last validation.
    """

    step: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    best_score: float = float("-1")
    best_step: int = 0
    validated_step: int = 0


def save_checkpoint(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: WeightAverage,
    progress: Progress,
    *,
    best: bool,
) -> Path:
    """Write checkpoints/step-N, point `last` (and with `best` also `best`) at it, drop the others.

    Raises:
        CheckpointError: if the disk is full or not writable; what was there before is intact.
    """
    folder = run / "checkpoints" / f"step-{progress.step}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        ema.ema_model.save(temporary)
        save_file(_training_tensors(model, optimizer, ema), temporary / STATE_FILE)
        write_json(temporary / PROGRESS_FILE, asdict(progress))
        for path in temporary.iterdir():
            sync(path)
        manifest = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST_FILE, manifest)
        if folder.exists():
            # A run resumed at its last step saves it again; until then the old folder counts.
            replaced = folder.with_name(f".{folder.name}{REPLACED}")
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(folder, replaced)
        os.replace(temporary, folder)
        sync(folder.parent)
        _point(folder, "last")
        if best:
            _point(folder, "best")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"could not write {folder}: {error}. The previous checkpoint is "
            "intact; free some space, then continue with --resume"
        ) from None
    _drop_unused(folder.parent)
    return folder


def load_checkpoint(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: WeightAverage
) -> Progress:
    """Restore model, optimiser and average from the newest whole checkpoint; return its counters.

    Raises:
        CheckpointError: if there is no checkpoint, or none is whole.
    """
    folder = newest_whole(run)
    state = load_file(folder / STATE_FILE)
    averaged = load_file(folder / "model.safetensors")
    try:
        # Weights that are not trained are stored once, with the averaged ones.
        model.load_state_dict(averaged | _part(state, "model."))
        ema.ema_model.load_state_dict(averaged)
        ema.step.copy_(state["ema.step"])
        ema.initted.copy_(state["ema.initted"])
        saved = optimizer.state_dict()
        saved["state"] = _optimizer_state(_part(state, "optimizer."))
        optimizer.load_state_dict(saved)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not fit this configuration ({str(error).splitlines()[0]}); "
            "resume with the configuration the run was started with"
        ) from None
    return Progress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))


def newest_whole(run: Path) -> Path:
    """Return the newest checkpoint whose files all match its manifest.

    Raises:
        CheckpointError: if there is none.
    """
    checkpoints = run / "checkpoints"
    # At equal steps the replaced one comes last.
    found = [*checkpoints.glob("step-*"), *checkpoints.glob(f".step-*{REPLACED}")]
    folders = sorted(found, key=_step, reverse=True)
    for folder in folders:
        if _is_whole(folder):
            return folder
    there = f"{len(folders)} checkpoints, all damaged" if folders else "no checkpoint"
    raise CheckpointError(f"{run} has {there}; start again without --resume and with --overwrite")


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        return bool(manifest) and all(sha256(folder / n) == h for n, h in manifest.items())
    except (OSError, ValueError, AttributeError, SafetensorError):
        return False


def _step(folder: Path) -> int:
    number = folder.name.removeprefix(".").removesuffix(REPLACED).removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: WeightAverage
) -> dict[str, torch.Tensor]:
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    tensors = {f"model.{n}": value for n, value in model.state_dict().items() if n not in frozen}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    tensors |= {"ema.step": ema.step, "ema.initted": ema.initted}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _optimizer_state(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value
    return state


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _point(folder: Path, name: str) -> None:
    link = folder.with_name(name)
    temporary = folder.with_name(f".{name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)


def _drop_unused(checkpoints: Path) -> None:
    used = {(checkpoints / name).resolve() for name in ("last", "best")}
    for folder in checkpoints.glob("step-*"):
        if folder.resolve() not in used:
            shutil.rmtree(folder, ignore_errors=True)
    for stale in checkpoints.glob(".*"):
        if stale.is_symlink():
            stale.unlink()
        else:
            shutil.rmtree(stale, ignore_errors=True)
