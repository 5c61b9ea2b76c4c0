"""A training run as a folder: what goes in, who may write to it, and what is left in it.

config.yaml     the resolved configuration           splits.csv       who is in which role
run.json        versions, device, data, arguments    metrics.jsonl    loss and validation
checkpoints/    see `training.checkpoint`            samples/         a grid a validation
model_card.md   what the model is and is not
"""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from diffdx._device import Precision, cpu_name
from diffdx._files import exclusive, write_json, write_text
from diffdx._interrupt import Interrupted, stop_requests
from diffdx.backbones.model import DiffusionModel, find_checkpoint
from diffdx.config import RunConfig
from diffdx.data.dataset import Dataset, Record
from diffdx.data.splits import load_splits, save_splits
from diffdx.errors import CheckpointError, ConfigError, DataError
from diffdx.training.card import model_card
from diffdx.training.fit import StepReport, Trainer
from diffdx.training.images import ImageTable, load_images
from diffdx.training.samples import write_sample_grid
from diffdx.training.validation import validate, validation_subset
from diffdx.transforms.pixels import PixelSpec

LIBRARIES = ("diffdx", "torch", "diffusers", "ema-pytorch", "numpy", "pillow", "safetensors")
IDENTITY = ("classes", "data_fingerprint", "world_size")
"""Entries of run.json that a resumed run must share."""


@dataclass
class TrainRequest:
    """What `diffdx train` was asked to do.

    Attributes:
        dataset: All images, labelled.
        splits: Columns image_id, path, label, patient_id, role.
        config: The resolved configuration.
        out: Run folder.
        device: Where to train.
        precision: Of network calls.
        num_workers: Threads that decode images.
        resume: Continue the run in `out`.
        force: Resume although configuration, classes or data differ.
        strict: Stop at the first unreadable image.
        arguments: The command line, for the record.
    """

    dataset: Dataset
    splits: pd.DataFrame
    config: RunConfig
    out: Path
    device: torch.device
    precision: Precision
    num_workers: int = 2
    resume: bool = False
    force: bool = False
    strict: bool = False
    arguments: list[str] = field(default_factory=list)


@dataclass
class Display:
    """How a run tells what it does; every part may be left out."""

    message: Callable[[str], None] = lambda text: None
    on_image: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[StepReport], None] = lambda report: None
    on_validation: Callable[[int, dict[str, float]], None] = lambda step, scores: None


def train(request: TrainRequest, display: Display | None = None) -> dict[str, Any]:
    """Train a model into `request.out` and return its run record (the content of run.json).

    Raises:
        ConfigError: if the folder holds another run's configuration, classes, data or splits.
        CheckpointError: if another process writes to the folder, or nothing can be resumed.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    with locked(request.out):
        return _train(request, display or Display())


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder's lock.

    Raises:
        CheckpointError: if another process holds it.
    """
    try:
        with exclusive(run, wait=False):
            yield
    except BlockingIOError:
        raise CheckpointError(
            f"{run} is being written by another process; wait for it or choose another --out"
        ) from None


def _train(request: TrainRequest, display: Display) -> dict[str, Any]:
    config, out = request.config, request.out
    record = _new_record(request)
    if request.resume:
        _check_same_run(request, record)
    model = _new_model(request)
    images, held_out = _load_roles(request, model.pixels, display)
    record["unreadable"] = images.unreadable + held_out.unreadable
    try:
        model.transform.fit(images.x())
    except ValueError as error:
        raise ConfigError(f"model.data.band_scaling: {error}") from None
    trainer = Trainer(
        model, images, config, out, device=request.device, precision=request.precision
    )
    if request.resume:
        trainer.resume()
        record["resumed_at_steps"] = [*_resumed_before(out), trainer.progress.step]
        display.message(f"resumed at step {trainer.progress.step}")
    # Only now: a forced resume that does not fit leaves the folder as it was.
    write_text(out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    save_splits(request.splits, out / "splits.csv")
    write_json(out / "run.json", record | {"status": "running"})
    status = "failed"
    try:
        with stop_requests() as stop:
            trainer.fit(
                stop=stop,
                validate=_validator(request, held_out, trainer, display),
                on_step=display.on_step,
            )
        status = "done"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        record |= _outcome(trainer, status)
        write_json(out / "run.json", record)
    write_text(out / "model_card.md", model_card(record, config))
    return record


def _load_roles(
    request: TrainRequest, spec: PixelSpec, display: Display
) -> tuple[ImageTable, ImageTable]:
    """Read the training images and those that score the model while it trains."""
    config, frame = request.config, request.splits
    train_ids, val_ids = (frame.image_id[frame.role == role].tolist() for role in ("train", "val"))
    if not val_ids:
        raise ConfigError("the splits have no 'val' role; training needs it to choose a checkpoint")
    every = request.dataset.select(val_ids)
    chosen = validation_subset(
        [str(r.label) for r in every.records], config.train.validation_images, config.seed
    )
    roles = [
        request.dataset.select(train_ids).records,
        [every.records[i] for i in chosen],
    ]
    total = sum(map(len, roles))

    def load(records: list[Record], before: int) -> ImageTable:
        return load_images(
            request.dataset,
            records,
            spec,
            num_workers=request.num_workers,
            strict=request.strict,
            progress=lambda done: display.on_image(before + done, total),
        )

    return load(roles[0], 0), load(roles[1], len(roles[0]))


def _new_model(request: TrainRequest) -> DiffusionModel:
    """Return a model with random weights from the seed; the caller's random state is untouched."""
    dataset = request.dataset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.config.seed)
        return DiffusionModel(
            request.config.model, dataset.classes, dataset.positive, tuple(dataset.warnings)
        )


def _validator(
    request: TrainRequest, held_out: ImageTable, trainer: Trainer, display: Display
) -> Callable[[DiffusionModel], dict[str, float]]:
    def score(model: DiffusionModel) -> dict[str, float]:
        train, step = request.config.train, trainer.progress.step
        scores = validate(
            model,
            held_out,
            num_trials=train.validation_trials,
            batch_size=max(64, train.batch_size),
            device=str(request.device),
            precision=request.precision,
        )
        write_sample_grid(model, request.out / "samples" / f"step-{step}.png", request.precision)
        display.on_validation(step, scores)
        return scores

    return score


def _new_record(request: TrainRequest) -> dict[str, Any]:
    counts = Counter(zip(request.splits.role, request.splits.label, strict=True))
    return {
        "research_use_only": "Research use only. Not a medical device.",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in LIBRARIES}
        | {"python": platform.python_version()},
        "platform": f"{platform.system()} {platform.machine()}, {cpu_name()}",
        "device": str(request.device),
        "precision": request.precision,
        "threads": torch.get_num_threads(),
        "world_size": 1,
        "seed": request.config.seed,
        "arguments": request.arguments,
        "classes": list(request.dataset.classes),
        "positive": request.dataset.positive,
        "dataset": request.dataset.name,
        "data_fingerprint": request.dataset.fingerprint,
        "counts": {f"{role}/{label}": n for (role, label), n in sorted(counts.items())},
        "warnings": request.dataset.warnings,
    }


def _outcome(trainer: Trainer, status: str) -> dict[str, Any]:
    progress = trainer.progress
    outcome: dict[str, Any] = {
        "status": status,
        "steps": progress.step,
        "images_seen": progress.step * trainer.config.train.batch_size,
        "train_seconds": round(progress.seconds, 1),
        "bad_steps": progress.bad_steps,
        "best_step": progress.best_step,
        "best_validation_auroc": progress.best_score if progress.best_step else None,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }
    try:
        card = find_checkpoint(trainer.run) / "model.json"
        outcome["model_sha256"] = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    except CheckpointError:
        outcome["model_sha256"] = None
    return outcome


def _check_same_run(request: TrainRequest, record: dict[str, Any]) -> None:
    """Refuse to resume a run with another configuration, class list, data or splits."""
    out = request.out
    try:
        before = json.loads((out / "run.json").read_text(encoding="utf-8"))
        old_config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        old = _flat(old_config) | {name: before[name] for name in IDENTITY}
        old["splits"] = _roles_hash(load_splits(out / "splits.csv"))
    except (OSError, ValueError, KeyError, yaml.YAMLError, DataError):
        raise CheckpointError(f"{out} holds no run to resume; start it without --resume") from None
    new = _flat(request.config.model_dump(mode="json"))
    new |= {name: record[name] for name in IDENTITY}
    new["splits"] = _roles_hash(request.splits)
    changes = [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changes and not request.force:
        raise ConfigError(
            f"{out} was started with other settings ({'; '.join(changes)}); repeat the original "
            "command with --resume, or add --force to go on with the new ones"
        )


def _roles_hash(splits: pd.DataFrame) -> str:
    roles = sorted(zip(splits.image_id, splits.role, strict=True))
    return hashlib.sha256(repr(roles).encode()).hexdigest()[:12]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _resumed_before(out: Path) -> list[int]:
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return list(record.get("resumed_at_steps", []))
