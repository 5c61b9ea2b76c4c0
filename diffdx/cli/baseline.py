"""`diffdx baseline`: fit a discriminative classifier to labelled images."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.cli.training import carry_out, labelled_dataset, resolve_splits

if TYPE_CHECKING:
    from diffdx.cli.dry_run import Size
    from diffdx.training.supervised_run import BaselineRequest


def baseline(
    data: options.Data,
    out: options.RunOut,
    model: Annotated[
        Literal[
            "resnet18",
            "resnet50",
            "efficientnet_b0",
            "efficientnet_b4",
            "vit_small",
            "vit_base",
            "swin_base",
        ],
        typer.Option(help="Which network."),
    ] = "resnet18",
    pretrained: Annotated[
        bool | None,
        typer.Option(help="Start from ImageNet weights; by default as the recipe says."),
    ] = None,
    recipe: Annotated[
        Literal["paper", "release"], typer.Option(help="As the paper says, or as its code does.")
    ] = "paper",
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    minutes: options.Minutes = None,
    images_seen: Annotated[
        int | None, typer.Option(min=1, help="Steps x batch size; by default 100 epochs.")
    ] = None,
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
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images in a step.")] = None,
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
    """Train a discriminative model to compare with. Research use only, not a medical device."""
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx._device import resolve_device, resolve_precision
        from diffdx.baseline_config import resolve_baseline
        from diffdx.training.budget import Budget
        from diffdx.training.images import detect_channels
        from diffdx.training.supervised_run import BaselineRequest, train_baseline

        dataset = labelled_dataset(data, positive=positive, uncertain=uncertain)
        resolved = resolve_baseline(
            recipe,
            model,
            channels=detect_channels(dataset),
            file=config,
            assignments=tuple(set_ or ()),
            options={
                "model.data.image_size": image_size,
                "model.pretrained": pretrained,
                "train.steps": steps,
                "train.minutes": minutes,
                "train.images_seen": images_seen,
                "train.batch_size": batch_size,
                "seed": seed,
            },
        )
        frame = resolve_splits(dataset, splits, allow_leak=allow_leak, seed=resolved.seed)
        resolved = resolved.with_length(int((frame["role"] == "train").sum()))
        Budget.of(resolved.train)
        where = resolve_device(device)
        request = BaselineRequest(
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
            train_baseline,
            size_of=_size,
            dry_run=dry_run,
            allow_leak=allow_leak,
            overwrite=overwrite,
            inputs=[data, config, *(splits or ())],
        )


def _size(request: "BaselineRequest") -> "Size":
    from diffdx.backbones.classifiers import Baseline

    model = Baseline(request.config.model, request.dataset.classes, request.dataset.positive)
    parameters = sum(p.numel() for p in model.parameters())
    return [f"parameters: {parameters:,}"], {"parameters": parameters}
