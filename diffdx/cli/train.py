"""`diffdx train`: fit a class-conditional diffusion model to labelled images."""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, Reporter
from diffdx.cli.folders import require_room

if TYPE_CHECKING:
    import pandas as pd

    from diffdx.data.dataset import Dataset
    from diffdx.training.fit import StepReport
    from diffdx.training.run import TrainRequest


def train(
    data: Annotated[str, typer.Argument(help="Folder, CSV or NAME:ROOT; see the data guide.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    preset: Annotated[str | None, typer.Option(help="tiny, small, base; default by size.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time.")] = None,
    images_seen: Annotated[int | None, typer.Option(min=1, help="Steps x batch size.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    splits: Annotated[list[Path] | None, typer.Option(help="Splits to use, CSV.")] = None,
    positive: options.Positive = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Accept a patient in two roles.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Resume with other settings.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a bad image.")] = False,
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
        from diffdx.data.readers import open_dataset
        from diffdx.training.budget import Budget
        from diffdx.training.images import detect_channels
        from diffdx.training.run import TrainRequest, locked

        dataset = open_dataset(data, positive=positive)
        dataset.require_trainable()
        dataset.require_positive()
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
            defaults={"model.data.channels": detect_channels(dataset)},
            file=config,
            assignments=tuple(set_ or ()),
            options=values,
        )
        Budget.of(resolved.train)
        frame = _splits(dataset, splits, allow_leak=allow_leak, seed=resolved.seed)
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
        for warning in dataset.warnings:
            reporter.warn(warning)
        if dry_run:
            _describe(reporter, request)
            return
        if not resume:
            # A run that another process still writes must not be emptied under its hands.
            with locked(out) if overwrite and (out / ".lock").is_file() else nullcontext():
                require_room(
                    out,
                    overwrite=overwrite,
                    or_else="add --resume to continue that run",
                    inputs=[path for path in (data, config, *(splits or ())) if path],
                )
        with reporter.working():
            record = run_training(reporter, request)
        text = (
            f"{record['steps']} steps, {record['images_seen']} images seen in "
            f"{record['train_seconds'] / 60:.1f} minutes; best validation AUROC "
            f"{record['best_validation_auroc']:.3f} at step {record['best_step']}\n{out}"
        )
        reporter.result(text, record)
        if record["unreadable"]:
            reporter.warn(f"{len(record['unreadable'])} images could not be read; see run.json")
            raise typer.Exit(EXIT_SOME_FAILED)


def _splits(
    dataset: "Dataset", files: list[Path] | None, *, allow_leak: bool, seed: int
) -> "pd.DataFrame":
    from diffdx.data.splits import align_splits, check_splits, load_splits, make_splits

    frame = align_splits(load_splits(files), dataset) if files else make_splits(dataset, seed=seed)
    for warning in check_splits(frame, allow_leak=allow_leak):
        if warning not in dataset.warnings:
            dataset.warnings.append(warning)
    return frame


def _describe(reporter: Reporter, request: "TrainRequest") -> None:
    """Print the resolved configuration and the model's size; write nothing."""
    import yaml

    from diffdx.backbones.model import DiffusionModel

    model = DiffusionModel(request.config.model, request.dataset.classes, request.dataset.positive)
    values = request.config.model_dump(mode="json")
    parameters = sum(p.numel() for p in model.parameters())
    pairs = zip(request.splits.role, request.splits.label, strict=True)
    roles = {f"{role}/{label}": n for (role, label), n in sorted(Counter(pairs).items())}
    text = yaml.safe_dump(values, sort_keys=False) + "\n".join(
        [
            f"parameters: {parameters:,}",
            f"network input: {' x '.join(map(str, model.shape))}",
            f"device: {request.device}, {request.precision}",
            *(f"{name}: {n} images" for name, n in roles.items()),
        ]
    )
    reporter.result(text, {"config": values, "parameters": parameters, "counts": roles})


def run_training(reporter: Reporter, request: "TrainRequest") -> dict[str, Any]:
    """Train with progress on standard error; return the run's record."""
    from diffdx.training.run import Display
    from diffdx.training.run import train as train_run

    def told(step: int, scores: dict[str, float]) -> None:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        reporter.say(f"step {step} validation: {parts}")

    reporter.say(f"training into {request.out} on {request.device} ({request.precision})")
    with reporter.progress("reading images") as line:

        def on_image(done: int, total: int) -> None:
            line.update(done / total, f"{done} of {total}")
            if done == total:
                line.begin("training")

        def on_step(step: "StepReport") -> None:
            note = f"loss {step.loss:.3f}, {step.images_per_second:.0f} images/s"
            line.update(step.fraction, note)

        return train_run(request, Display(reporter.say, on_image, on_step, told))
