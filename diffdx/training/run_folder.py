"""A training run as a folder: what goes in, who may write to it, and what is left in it.

config.yaml     the resolved configuration           splits.csv       who is in which role
run.json        versions, device, data, arguments    metrics.jsonl    loss and validation
checkpoints/    see `training.checkpoint`            model_card.md    what the model is and is not
audit.json      what the data's audit found

It is the same for every kind of model; what differs between them is a `RunKind`.
"""

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

import pandas as pd
import torch
import yaml

from diffdx._device import Precision, cpu_name
from diffdx._files import exclusive, write_json, write_text
from diffdx._interrupt import Interrupted, stop_requests
from diffdx._notice import NOTICE
from diffdx.backbones.stored import CARD_FILE, find_checkpoint
from diffdx.data.dataset import Dataset, Record
from diffdx.data.splits import save_splits
from diffdx.errors import CheckpointError, ConfigError
from diffdx.training import ranks
from diffdx.training.images import ImageTable, load_images
from diffdx.training.loop import ConfigT, ModelT, StepReport, TrainingLoop
from diffdx.training.same_run import check_same_run, resumption
from diffdx.training.validation import validation_subset
from diffdx.transforms.pixels import PixelSpec

LIBRARIES = ("diffdx", "torch", "diffusers", "ema-pytorch", "numpy", "pillow", "safetensors")


@dataclass
class RunRequest(Generic[ConfigT, ModelT]):
    """What a training command was asked to do.

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
        audit: What the audit found, to be kept as audit.json; None if there was none.
        model: To start from; None is a new one.
    """

    dataset: Dataset
    splits: pd.DataFrame
    config: ConfigT
    out: Path
    device: torch.device
    precision: Precision
    num_workers: int = 2
    resume: bool = False
    force: bool = False
    strict: bool = False
    arguments: list[str] = field(default_factory=list)
    audit: dict[str, Any] | None = None
    model: ModelT | None = None


@dataclass(frozen=True)
class RunKind(Generic[ConfigT, ModelT]):
    """What training one kind of model needs to know.

    Attributes:
        new_model: Makes the model that a run starts from; the caller's random state is untouched.
        new_trainer: Makes its training loop on these images.
        validate: Scores a model on held-out images at a step, by name.
        model_card: Returns the Markdown card of a finished run from its record.
        facts: What run.json says besides.
        libraries: Whose versions it says besides.
    """

    new_model: Callable[[RunRequest[ConfigT, ModelT]], ModelT]
    new_trainer: Callable[
        [RunRequest[ConfigT, ModelT], ModelT, ImageTable], TrainingLoop[ModelT, ConfigT]
    ]
    validate: Callable[[RunRequest[ConfigT, ModelT], ModelT, ImageTable, int], dict[str, float]]
    model_card: Callable[[dict[str, Any], ConfigT], str]
    facts: dict[str, Any] = field(default_factory=dict)
    libraries: Sequence[str] = ()


@dataclass
class Display:
    """How a run tells what it does; every part may be left out."""

    message: Callable[[str], None] = lambda text: None
    on_image: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[StepReport], None] = lambda report: None
    on_validation: Callable[[int, dict[str, float]], None] = lambda step, scores: None


def train_run(
    request: RunRequest[ConfigT, ModelT],
    kind: RunKind[ConfigT, ModelT],
    display: Display | None = None,
) -> dict[str, Any]:
    """Train a model into `request.out` and return its run record (the content of run.json).

    Raises:
        ConfigError: if the folder holds another run's configuration, classes, data or splits.
        CheckpointError: if another process writes to the folder, or nothing can be resumed.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    with locked(request.out) if ranks.is_main() else nullcontext():
        return _train(request, kind, display or Display())


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


def _train(
    request: RunRequest[ConfigT, ModelT], kind: RunKind[ConfigT, ModelT], display: Display
) -> dict[str, Any]:
    config, out = request.config, request.out
    record = _new_record(request, kind)
    if request.resume:
        check_same_run(out, config, request.splits, record, force=request.force)
    model = request.model or kind.new_model(request)
    images, held_out = _load_roles(request, model.pixels, display)
    record["unreadable"] = images.unreadable + held_out.unreadable
    trainer = kind.new_trainer(request, model, images)
    if trainer.order.strata is not None:
        record["against_style"] = {
            name: int(trainer.order.strata[images.labels == k].sum())
            for k, name in enumerate(request.dataset.classes)
        }
    if request.resume:
        trainer.resume()
        record |= resumption(out, record, trainer.progress.step)
        display.message(f"resumed at step {trainer.progress.step}")
    if ranks.is_main():
        # Only now: a forced resume that does not fit leaves the folder as it was.
        _write_start(request, record)

    def validate(current: ModelT) -> dict[str, float]:
        step = trainer.progress.step
        scores = kind.validate(request, current, held_out, step)
        display.on_validation(step, scores)
        return scores

    status = "failed"
    try:
        with stop_requests() as stop:
            trainer.fit(stop=stop, validate=validate, on_step=display.on_step)
        status = "done"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        if ranks.is_main():
            record |= _outcome(trainer, status)
            write_json(out / "run.json", record)
    if ranks.is_main():
        write_text(out / "model_card.md", kind.model_card(record, config))
    return record


def _write_start(request: RunRequest[ConfigT, ModelT], record: dict[str, Any]) -> None:
    """Write what is known of the run before its first step."""
    out, config = request.out, request.config.model_dump(mode="json")
    write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    save_splits(request.splits, out / "splits.csv")
    if request.audit is not None:
        write_json(out / "audit.json", request.audit)
    write_json(out / "run.json", record | {"status": "running"})


def _load_roles(
    request: RunRequest[ConfigT, ModelT], spec: PixelSpec, display: Display
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


def _new_record(
    request: RunRequest[ConfigT, ModelT], kind: RunKind[ConfigT, ModelT]
) -> dict[str, Any]:
    counts = Counter(zip(request.splits.role, request.splits.label, strict=True))
    return {
        "research_use_only": NOTICE,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in (*LIBRARIES, *kind.libraries)}
        | {"python": platform.python_version()},
        "platform": f"{platform.system()} {platform.machine()}, {cpu_name()}",
        "device": str(request.device),
        "precision": request.precision,
        "threads": torch.get_num_threads(),
        "world_size": ranks.size(),
        "seed": request.config.seed,
        "arguments": request.arguments,
        "classes": list(request.dataset.classes),
        "positive": request.dataset.positive,
        "dataset": request.dataset.name,
        "data_fingerprint": request.dataset.fingerprint,
        "counts": {f"{role}/{label}": n for (role, label), n in sorted(counts.items())},
        "warnings": request.dataset.warnings,
        **kind.facts,
    }


def _outcome(trainer: TrainingLoop[ModelT, ConfigT], status: str) -> dict[str, Any]:
    progress = trainer.progress
    score = trainer.chosen_by.removesuffix("_mean_v")
    outcome: dict[str, Any] = {
        "status": status,
        "steps": progress.step,
        "images_seen": progress.step * trainer.config.train.batch_size,
        "train_seconds": round(progress.seconds, 1),
        "bad_steps": progress.bad_steps,
        "best_step": progress.best_step,
        f"best_validation_{score}": progress.best_score if progress.best_step else None,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }
    try:
        card = find_checkpoint(trainer.run) / CARD_FILE
        outcome["model_sha256"] = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    except CheckpointError:
        outcome["model_sha256"] = None
    return outcome
