"""`diffdx train`: fit a class-conditional diffusion model to labelled images."""

import sys
from typing import Annotated

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.cli.dry_run import diffusion_size
from diffdx.cli.training import carry_out, labelled_dataset, resolve_splits


def train(
    data: options.Data,
    out: options.RunOut,
    preset: Annotated[str | None, typer.Option(help="Network, as in small; by size.")] = None,
    recipe: options.Recipe = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
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
    """Train a diffusion model. Research use only, not a medical device."""
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx._device import resolve_device, resolve_precision
        from diffdx.config import preset_for_size, resolve_config
        from diffdx.training.budget import Budget
        from diffdx.training.images import detect_channels
        from diffdx.training.run import TrainRequest
        from diffdx.training.run import train as train_diffusion

        dataset = labelled_dataset(data, positive=positive, uncertain=uncertain)
        values = {
            "model.data.image_size": image_size,
            "train.steps": steps,
            "train.minutes": minutes,
            "train.images_seen": images_seen,
            "train.batch_size": batch_size,
            "seed": seed,
        }
        resolved = resolve_config(
            preset or preset_for_size(image_size),
            recipe=recipe,
            defaults={"model.data.channels": detect_channels(dataset)},
            file=config,
            assignments=tuple(set_ or ()),
            options=values,
        )
        Budget.of(resolved.train)
        frame = resolve_splits(dataset, splits, allow_leak=allow_leak, seed=resolved.seed)
        where = resolve_device(device)
        request = TrainRequest(
            dataset=dataset,
            splits=frame,
            config=resolved,
            out=out,
            device=where,
            precision=resolve_precision(precision, where),
            num_workers=num_workers,
            resume=resume,
            force=force,
            strict=strict,
            arguments=sys.argv[1:],
        )
        carry_out(
            reporter,
            request,
            train_diffusion,
            size_of=diffusion_size,
            dry_run=dry_run,
            allow_leak=allow_leak,
            overwrite=overwrite,
            inputs=[data, config, *(splits or ())],
        )
