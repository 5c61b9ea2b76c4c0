"""A diffusion model's training run: a run folder (see `training.run_folder`) with samples/.

samples/ gets a grid of generated images at each validation.
"""

from typing import Any

import torch

from diffdx.backbones.model import DiffusionModel
from diffdx.config import RunConfig
from diffdx.errors import ConfigError
from diffdx.training import ranks
from diffdx.training.card import model_card
from diffdx.training.fit import Trainer
from diffdx.training.images import ImageTable
from diffdx.training.latents import trainer_of
from diffdx.training.run_folder import Display, RunKind, RunRequest, train_run
from diffdx.training.samples import write_sample_grid
from diffdx.training.validation import validate

TrainRequest = RunRequest[RunConfig, DiffusionModel]


def train(request: TrainRequest, display: Display | None = None) -> dict[str, Any]:
    """Train a diffusion model into `request.out` and return its run record.

    Raises:
        ConfigError: if the folder holds another run's configuration, classes, data or splits, or
            the configuration does not fit the images.
        CheckpointError: if another process writes to the folder, or nothing can be resumed.
        Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    """
    kind = RunKind(
        new_model=_new_model, new_trainer=_new_trainer, validate=_validate, model_card=model_card
    )
    return train_run(request, kind, display)


def _new_model(request: TrainRequest) -> DiffusionModel:
    """Return a model with random weights from the seed."""
    config, dataset = request.config, request.dataset
    if config.train.steps == 0:
        raise ConfigError("train.steps 0 leaves a new model untrained; give at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DiffusionModel(
            config.model, dataset.classes, dataset.positive, tuple(dataset.warnings)
        )


def _new_trainer(request: TrainRequest, model: DiffusionModel, images: ImageTable) -> Trainer:
    config = request.config
    try:
        model.transform.fit(images.sample())
    except ValueError as error:
        raise ConfigError(f"model.data.band_scaling: {error}") from None
    trainer = trainer_of(model, config.train.augment)
    return trainer(
        model, images, config, request.out, device=request.device, precision=request.precision
    )


def _validate(
    request: TrainRequest, model: DiffusionModel, held_out: ImageTable, step: int
) -> dict[str, float]:
    train = request.config.train
    scores = validate(
        model,
        held_out,
        num_trials=train.validation_trials,
        batch_size=max(64, train.batch_size),
        device=str(request.device),
        precision=request.precision,
    )
    if ranks.is_main():
        write_sample_grid(model, request.out / "samples" / f"step-{step}.png", request.precision)
    return scores
