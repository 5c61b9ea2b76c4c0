"""What the verbs that train share: splits, a free folder, progress, the words at the end."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffdx.cli.audit import audit_before
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.cli.dry_run import Size, describe
from diffdx.cli.folders import require_room

if TYPE_CHECKING:
    import pandas as pd

    from diffdx.data.dataset import Dataset
    from diffdx.training.loop import ConfigT, ModelT, StepReport
    from diffdx.training.run_folder import Display, RunRequest


def labelled_dataset(data: str, *, positive: str | None, uncertain: str | None = None) -> "Dataset":
    """Return the dataset, once a classifier can be trained on its labels.

    Raises:
        DataError, ConfigError: as `open_dataset`, `require_trainable` and `require_positive` do.
    """
    from diffdx.data.readers import open_dataset

    dataset = open_dataset(data, positive=positive, uncertain=uncertain)
    dataset.require_trainable()
    dataset.require_positive()
    return dataset


def resolve_splits(
    dataset: "Dataset", files: list[Path] | None, *, allow_leak: bool, seed: int
) -> "pd.DataFrame":
    """Return the splits given or made by seed; their warnings are added to the dataset's."""
    from diffdx.data.splits import align_splits, check_splits, load_splits, make_splits

    frame = align_splits(load_splits(files), dataset) if files else make_splits(dataset, seed=seed)
    for warning in check_splits(frame, allow_leak=allow_leak):
        if warning not in dataset.warnings:
            dataset.warnings.append(warning)
    return frame


def carry_out(
    reporter: Reporter,
    request: "RunRequest[ConfigT, ModelT]",
    train_run: "Callable[[RunRequest[ConfigT, ModelT], Display], dict[str, Any]]",
    *,
    size_of: "Callable[[RunRequest[ConfigT, ModelT]], Size]",
    dry_run: bool,
    allow_leak: bool,
    overwrite: bool,
    inputs: Sequence[str | Path | None],
) -> None:
    """Audit the data, train into the request's folder and tell the outcome; or only say what it is.

    Args:
        reporter: Where to speak.
        request: What to do.
        train_run: Does it.
        size_of: Says how large the model is.
        dry_run: Describe the run, and that is all.
        allow_leak: Train although the audit found a leak.
        overwrite: Replace what is in the folder.
        inputs: What the command reads, which may not lie in a folder that it empties.

    Raises:
        typer.Exit: code 3, if some images could not be read.
    """
    from diffdx.training import ranks

    with ranks.joined(request.device):
        with ranks.main_first():
            if ranks.is_main():
                _prepare(
                    reporter,
                    request,
                    dry_run=dry_run,
                    allow_leak=allow_leak,
                    overwrite=overwrite,
                    inputs=inputs,
                )
        if dry_run:
            if ranks.is_main():
                describe(reporter, request, size_of(request))
            return
        with reporter.working():
            record = run_training(reporter, request, train_run)
        if ranks.is_main():
            reporter.result(f"{_outcome(record)}. {NOTICE}\n{request.out}", record)
    if record["unreadable"]:
        reporter.warn(f"{len(record['unreadable'])} images could not be read; see run.json")
        raise typer.Exit(EXIT_SOME_FAILED)


def _prepare(
    reporter: Reporter,
    request: "RunRequest[ConfigT, ModelT]",
    *,
    dry_run: bool,
    allow_leak: bool,
    overwrite: bool,
    inputs: Sequence[str | Path | None],
) -> None:
    """Tell the warnings, audit the data and make room for the run."""
    from diffdx.training.run_folder import locked

    out, model = request.out, request.model
    for warning in dict.fromkeys([*request.dataset.warnings, *(model.warnings if model else ())]):
        reporter.warn(warning)
    if dry_run:
        return
    audit_before(reporter, request, allow_leak=allow_leak)
    if not request.resume:
        # A run that another process still writes must not be emptied under its hands.
        with locked(out) if overwrite and (out / ".lock").is_file() else nullcontext():
            require_room(
                out,
                overwrite=overwrite,
                or_else="add --resume to continue that run",
                inputs=[path for path in inputs if path],
            )


def run_training(
    reporter: Reporter,
    request: "RunRequest[ConfigT, ModelT]",
    train_run: "Callable[[RunRequest[ConfigT, ModelT], Display], dict[str, Any]]",
) -> dict[str, Any]:
    """Train with progress on standard error; return the record."""
    from diffdx.training import ranks
    from diffdx.training.run_folder import Display

    def told(step: int, scores: dict[str, float]) -> None:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        reporter.say(f"step {step} validation: {parts}")

    if not ranks.is_main():
        return train_run(request, Display())
    where = f"{request.device} ({request.precision})"
    where += f", {ranks.size()} processes" if ranks.size() > 1 else ""
    reporter.say(f"training into {request.out} on {where}")
    with reporter.progress("reading images") as line:

        def on_image(done: int, total: int) -> None:
            line.count(done, total)
            if done == total:
                line.begin("training")

        def on_step(step: "StepReport") -> None:
            note = f"loss {step.loss:.3f}, {step.images_per_second:.0f} images/s"
            line.update(step.fraction, note)

        return train_run(request, Display(reporter.say, on_image, on_step, told))


def _outcome(record: dict[str, Any]) -> str:
    if not record["steps"]:
        return "zero-shot: the base model as it is"
    name = "F1" if "best_validation_f1" in record else "AUROC"
    return (
        f"{record['steps']} steps, {record['images_seen']} images seen in "
        f"{record['train_seconds'] / 60:.1f} minutes; best validation {name} "
        f"{record[f'best_validation_{name.lower()}']:.3f} at step {record['best_step']}"
    )
