"""`diffdx finetune`: a Stable Diffusion checkpoint with prompts for classes, trained on or not."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.cli.dry_run import diffusion_size
from diffdx.cli.training import carry_out, labelled_dataset, resolve_splits
from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx.backbones.model import DiffusionModel
    from diffdx.config import RunConfig
    from diffdx.data.dataset import Dataset

LORA_RANK = 16


def finetune(
    data: options.Data,
    out: options.RunOut,
    base: Annotated[
        str | None, typer.Option(help="Stable Diffusion 1.x or 2.x: diffusers folder or hub id.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="YAML, CLASS: prompt or CLASS: [prompt, ...].")
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train a low-rank adapter, not every weight.")
    ] = False,
    recipe: options.Recipe = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; default 256.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Optimiser steps; 0 is zero-shot.")
    ] = None,
    minutes: options.Minutes = None,
    images_seen: Annotated[int | None, typer.Option(min=1, help="Steps x batch size.")] = None,
    resume: options.Resume = False,
    splits: options.Splits = None,
    positive: options.Positive = None,
    uncertain: options.Uncertain = None,
    allow_leak: options.AllowLeak = False,
    force: options.Force = False,
    strict: options.StopAtBadImage = False,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    seed: options.Seed | None = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a step.")] = None,
    num_workers: options.NumWorkers = 2,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune Stable Diffusion, or take it as it is (--steps 0). Research use only.

    The run folder is complete: every other verb reads it as any run, without the base checkpoint.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx._device import resolve_device, resolve_precision
        from diffdx.training.budget import Budget
        from diffdx.training.run import TrainRequest, train

        dataset = labelled_dataset(data, positive=positive, uncertain=uncertain)
        given = {
            "model.data.image_size": image_size,
            "train.steps": steps,
            "train.minutes": minutes,
            "train.images_seen": images_seen,
            "train.batch_size": batch_size,
            "seed": seed,
        }
        sources = {"assignments": tuple(set_ or ()), "options": given, "recipe": recipe}
        if resume:
            resolved, model = _resumed(out, config, sources), None
        else:
            resolved, model = _adopted(dataset, base, prompts, config, sources, lora=lora)
        Budget.of(resolved.train)
        where = resolve_device(device)
        request = TrainRequest(
            dataset=dataset,
            splits=resolve_splits(dataset, splits, allow_leak=allow_leak, seed=resolved.seed),
            config=resolved,
            out=out,
            device=where,
            precision=resolve_precision(precision, where),
            num_workers=num_workers,
            resume=resume,
            force=force,
            strict=strict,
            arguments=sys.argv[1:],
            model=model,
        )
        carry_out(
            reporter,
            request,
            train,
            size_of=diffusion_size,
            dry_run=dry_run,
            allow_leak=allow_leak,
            overwrite=overwrite,
            inputs=[data, base, prompts, config, *(splits or ())],
        )


def _resumed(out: Path, config: Path | None, sources: dict[str, Any]) -> "RunConfig":
    """Return the configuration of the run in `out` with what was given anew."""
    from diffdx.config import resolve_config

    if config is not None:
        raise ConfigError("--resume takes the run's own config.yaml; leave out --config")
    return resolve_config("stable-diffusion", file=out / "config.yaml", **sources)


def _adopted(
    dataset: "Dataset",
    base: str | None,
    prompts: Path | None,
    config: Path | None,
    sources: dict[str, Any],
    *,
    lora: bool,
) -> "tuple[RunConfig, DiffusionModel]":
    """Return the configuration of a new run and the model that it starts from."""
    from diffdx.backbones.stable_diffusion.adopt import adopt, backbone_values
    from diffdx.backbones.stable_diffusion.checkpoint import open_checkpoint
    from diffdx.backbones.stable_diffusion.prompts import read_prompts
    from diffdx.config import resolve_config

    if base is None or prompts is None:
        raise ConfigError("a new run needs --base CHECKPOINT and --prompts FILE.yaml")
    texts = read_prompts(prompts, dataset.classes)
    checkpoint = open_checkpoint(base)
    resolved = resolve_config(
        "stable-diffusion",
        file=config,
        defaults={
            **backbone_values(checkpoint, base, texts, LORA_RANK if lora else None),
            "train.learning_rate": 1e-4 if lora else 1e-5,
        },
        **sources,
    )
    model = adopt(
        checkpoint, resolved.model, dataset.classes, dataset.positive, tuple(dataset.warnings)
    )
    return resolved.model_copy(update={"model": model.config}), model
