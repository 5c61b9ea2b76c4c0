"""A baseline's training run: a run folder (see `training.run_folder`) without samples.

`run.json` says `kind: baseline`.
"""

from typing import Any

import torch

from diffdx.backbones.classifiers import KIND, Baseline
from diffdx.baseline_config import BaselineConfig
from diffdx.training.images import ImageTable
from diffdx.training.run_folder import Display, RunKind, RunRequest, train_run
from diffdx.training.supervised import SupervisedTrainer, validate_supervised

BaselineRequest = RunRequest[BaselineConfig, Baseline]


def train_baseline(request: BaselineRequest, display: Display | None = None) -> dict[str, Any]:
    """Train a baseline into `request.out` and return its run record (the content of run.json).

    Raises:
        ConfigError: if the folder holds another run's configuration, classes, data or splits, or
            pretrained weights cannot be had.
        CheckpointError: if another process writes to the folder, or nothing can be resumed.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    kind = RunKind(
        new_model=_new_model,
        new_trainer=_new_trainer,
        validate=_validate,
        model_card=_model_card,
        facts={"kind": KIND, "architecture": request.config.model.architecture},
        libraries=("timm", "torchvision"),
    )
    return train_run(request, kind, display)


def _new_model(request: BaselineRequest) -> Baseline:
    """Return a new model with weights from the seed, or pretrained ones unless it is resumed."""
    dataset, model = request.dataset, request.config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.config.seed)
        return Baseline(
            model,
            dataset.classes,
            dataset.positive,
            tuple(dataset.warnings),
            fetch_pretrained=not request.resume,
        )


def _new_trainer(
    request: BaselineRequest, model: Baseline, images: ImageTable
) -> SupervisedTrainer:
    return SupervisedTrainer(
        model,
        images,
        request.config,
        request.out,
        device=request.device,
        precision=request.precision,
    )


def _validate(
    request: BaselineRequest, model: Baseline, held_out: ImageTable, step: int
) -> dict[str, float]:
    batch_size = max(64, request.config.train.batch_size)
    return validate_supervised(model, held_out, batch_size=batch_size, precision=request.precision)


def _model_card(record: dict[str, Any], config: BaselineConfig) -> str:
    model = config.model
    start = "ImageNet weights" if model.pretrained else "random weights"
    rows = {
        "classes": f"{', '.join(record['classes'])} (positive: {record['positive']})",
        "input": f"{model.data.image_size} x {model.data.image_size} px, stored with "
        f"{model.data.channels} channel(s)",
        "resizing": model.data.resize,
        "network": f"{model.architecture}, {model.stem} stem, {record['parameters']:,} parameters",
        "started from": start,
        "recipe": config.recipe,
        "trained": f"{record['images_seen']:,} images seen in {record['steps']:,} steps",
        "time": f"{record['train_seconds'] / 60:.1f} minutes",
        "machine": f"{record['device']}, {record['precision']}, {record['threads']} threads",
        "weights": f"SHA-256 {record['model_sha256']} (as trained)",
        "data": f"{record['dataset']}, fingerprint {record['data_fingerprint'][:16]}",
        "validation": f"F1 {record['best_validation_f1']:.4f}",
        **{f"images, {name}": str(n) for name, n in record["counts"].items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    warnings = "\n".join(f"- {text}" for text in record["warnings"]) or "- none"
    return f"""# Discriminative baseline: {" / ".join(record["classes"])}

**{record["research_use_only"]}** It must not be used for diagnosis, triage or any other
decision about a patient. Its softmax is a score, no probability, until it is calibrated.

| | |
|---|---|
{table}

Warnings:

{warnings}
"""
