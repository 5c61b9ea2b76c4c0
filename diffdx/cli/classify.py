"""`diffdx classify`: which class denoises each image best, trial by trial; or a baseline's word."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.cli.fitted import fitted_parts
from diffdx.cli.inputs import chosen_images
from diffdx.cli.models import OF_TRIALS, classify_images, load_model
from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from diffdx.classification.engine import Engine
    from diffdx.classification.runner import ClassifyResult

OF_RAY = ("actors", "actor_cores")
"""Parameters that mean something only to a Ray cluster."""
SHOWN = 20
"""Images listed on standard output; the tables hold them all."""


def classify(
    context: options.Context,
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    inputs: Annotated[list[str], typer.Argument(help="Dataset, folder, CSV or image files.")],
    out: Annotated[Path | None, typer.Option(help="Predictions folder to write.")] = None,
    split: options.Split = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials per image.")] = 501,
    bank: Annotated[int, typer.Option(min=1, help="Trials in the bank.")] = 501,
    rule: options.Rule = "vote",
    space: options.Space = "v",
    prevalence: options.Prevalence = None,
    stop: options.Stop = "none",
    budget: Annotated[
        float | None, typer.Option(help="Seconds per image, at least a trial.")
    ] = None,
    eliminate: options.Eliminate = False,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Keep maps of where in the image errors come from.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="I/N: every N-th image from the I-th.")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where: in this process, or on a Ray cluster.")
    ] = "local",
    actors: Annotated[
        int | None, typer.Option(help="Ray: processes with the model; one a GPU, or a core.")
    ] = None,
    actor_cores: Annotated[int, typer.Option(help="Ray: CPU cores of such a process.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad image.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bytes in any batch, order or shard.")
    ] = False,
    frame: options.Frame = None,
    refuse_burned_in: Annotated[
        bool, typer.Option("--refuse-burned-in", help="Fail on DICOM that may show text.")
    ] = False,
    with_identifiers: Annotated[
        bool, typer.Option("--with-identifiers", help="Patients' own IDs of DICOM, not hashes.")
    ] = False,
    uncertain: options.Uncertain = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    as_json: options.Json = False,
) -> None:
    """Classify images by their denoising errors. Research use only, not a medical device.

    A run that was cut continues when the same command is given again. Exit code 3 means that some
    images could not be classified; the tables say which and why.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx.backbones.classifiers import is_baseline
        from diffdx.classification.settings import ClassifySettings
        from diffdx.classification.supervised import SupervisedSettings
        from diffdx.data.readers import open_inputs

        settings: ClassifySettings | SupervisedSettings
        how: dict[str, Any] = {
            "batch_size": options.rows_per_call(batch_size),
            "device": device,
            "precision": precision,
            "strict": strict,
            "overwrite": overwrite,
        }
        if is_baseline(run):
            options.refuse(context, OF_TRIALS, f"{run} is a baseline, without trials")
            settings = SupervisedSettings(**how)
        else:
            if engine == "local":
                options.refuse(context, OF_RAY, "--engine local is this one process")
            bound, weights = fitted_parts(run, rule=rule, space=space, stop=stop, trials=trials)
            settings = ClassifySettings(
                num_trials=trials,
                bank_size=bank,
                rule=rule,
                space=space,
                stop=stop,
                bound=bound,
                weights=weights,
                budget_seconds=budget,
                eliminate=eliminate,
                seed=seed,
                deterministic=deterministic,
                shard=None if shard is None else _shard(shard),
                evidence=evidence,
                **how,
            )
        model = load_model(run)
        dataset = open_inputs(
            inputs,
            frame=frame,
            uncertain=uncertain,
            refuse_burned_in=refuse_burned_in,
            with_identifiers=with_identifiers,
        )
        dataset = chosen_images(dataset, run, model, split=split, limit=limit, seed=seed)
        for warning in dataset.warnings:
            reporter.warn(warning)
        folder = out or Path("out") / f"classify-{run.name}"
        computing = _engine(engine, actors, actor_cores)
        result = classify_images(reporter, model, dataset, folder, settings, computing)
        _conclude(reporter, result, run, prevalence)


def _engine(name: str, actors: int | None, cores: int) -> "Engine":
    from diffdx.classification.engine import LocalEngine
    from diffdx.classification.ray_engine import RayEngine

    return RayEngine(actors, cores) if name == "ray" else LocalEngine()


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit()):
        raise ConfigError(f"--shard {text}: use I/N, as in 2/4")
    return int(first), int(count)


def _conclude(
    reporter: Reporter, result: "ClassifyResult", run: Path, prevalence: str | None
) -> None:
    """Add probabilities if the run is calibrated; print the first rows, and how many failed."""
    folder, table, info = result.folder, result.table, result.info
    if table is None:
        text = f"{result.n_waiting} images are left to other shards; give them the same --out"
        reporter.result(text, {"out": str(folder), "n_waiting": result.n_waiting})
        return
    if prevalence is not None or (run / "calibration.json").is_file():
        from diffdx.uncertainty.annotate import annotate

        for warning in annotate(folder, run, prevalence=prevalence):
            reporter.warn(warning)
    lines = [_line(row) for row in table.head(SHOWN).to_dict("records")]
    if len(table) > SHOWN:
        lines.append(f"... and {len(table) - SHOWN} more")
    rate = f"{info['seconds']:.1f} s, {info['device']}, {info['precision']}"
    text = "\n".join([*lines, f"{NOTICE} {rate}", str(folder / "predictions.csv")])
    reporter.result(text, {"out": str(folder), **info})
    if result.n_failed:
        reporter.warn(f"{result.n_failed} of {len(table)} images failed; see column 'error'")
        raise typer.Exit(EXIT_SOME_FAILED)


def _line(row: "Mapping[Hashable, Any]") -> str:
    path, chosen = row["path"], row["prediction"]
    if row["status"] == "error":
        return f"{path}  error: {row['error']}"
    if f"score_{chosen}" in row:
        return f"{path}  {chosen}  softmax {row[f'score_{chosen}']:.3f}"
    return (
        f"{path}  {chosen}  vote share {row[f'vote_share_{chosen}']:.3f}  "
        f"entropy {row['entropy_bits']:.3f} bits"
    )
