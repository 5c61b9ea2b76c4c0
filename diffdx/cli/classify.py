"""`diffdx classify`: which class denoises each image best, trial by trial."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.cli.fitted import fitted_parts
from diffdx.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from diffdx.backbones.model import DiffusionModel
    from diffdx.classification.denoising_errors import BatchSizeOption
    from diffdx.data.dataset import Dataset

SHOWN = 20
"""Images listed on standard output; the tables hold them all."""


def classify(
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    inputs: Annotated[list[str], typer.Argument(help="Dataset, folder, CSV or image files.")],
    out: Annotated[Path | None, typer.Option(help="Predictions folder to write.")] = None,
    split: Annotated[
        Literal["train", "val", "calib", "test"] | None, typer.Option(help="Only this role.")
    ] = None,
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
    shard: Annotated[str | None, typer.Option(help="I/N: every N-th image from the I-th.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad image.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bytes in any batch, order or shard.")
    ] = False,
    frame: Annotated[int | None, typer.Option(min=0, help="Frame of multi-frame files.")] = None,
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
        from diffdx.backbones.model import DiffusionModel
        from diffdx.classification.runner import ClassifySettings, classify_dataset
        from diffdx.data.readers import open_inputs

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
            batch_size=rows_per_call(batch_size),
            device=device,
            precision=precision,
            deterministic=deterministic,
            shard=None if shard is None else _shard(shard),
            overwrite=overwrite,
            strict=strict,
        )
        model = DiffusionModel.load(run)
        dataset = open_inputs(inputs, frame=frame)
        if split is not None:
            dataset = of_role(dataset, run, split)
        dataset = _limited(dataset, limit, seed)
        check_labels(dataset, model)
        for warning in dataset.warnings:
            reporter.warn(warning)
        folder = out or Path("out") / f"classify-{run.name}"
        title = f"classifying {len(dataset)} images"
        with reporter.working(), reporter.progress(title) as line:
            result = classify_dataset(
                model,
                dataset,
                folder,
                settings,
                lambda done, total: line.update(done / max(total, 1), f"{done} of {total}"),
            )
        if result.table is None:
            text = f"{result.n_waiting} images are left to other shards; give them the same --out"
            reporter.result(text, {"out": str(folder), "n_waiting": result.n_waiting})
            return
        if prevalence is not None or (run / "calibration.json").is_file():
            from diffdx.uncertainty.annotate import annotate

            for warning in annotate(folder, run, prevalence=prevalence):
                reporter.warn(warning)
        text = _summary(folder, result.table, result.info)
        reporter.result(text, {"out": str(folder), **result.info})
        if result.n_failed:
            reporter.warn(f"{result.n_failed} of {len(dataset)} images failed; see column 'error'")
            raise typer.Exit(EXIT_SOME_FAILED)


def of_role(dataset: "Dataset", run: Path, role: str) -> "Dataset":
    """Return the images that the run's own splits file puts into this role.

    Without a splits file, the publishers' split counts.

    Raises:
        DataError: if the dataset is not the run's, or has no image in this role.
    """
    from diffdx.data.splits import load_splits

    file = run / "splits.csv"
    if file.is_file():
        frame = load_splits(file)
        chosen = dataset.select(frame.image_id[frame.role == role])
    else:
        chosen = dataset.subset([r for r in dataset.records if r.role == role])
    if not len(chosen):
        raise DataError(f"{dataset.name} has no image in the role '{role}'; leave out --split")
    return chosen


def check_labels(dataset: "Dataset", model: "DiffusionModel") -> None:
    """Check that every label is a class of the model; classes are matched by name, not position.

    Raises:
        DataError: listing the labels that the model does not know.
    """
    unknown = sorted({r.label for r in dataset.records if r.label} - set(model.classes))
    if unknown:
        raise DataError(
            f"{dataset.name}: labels {', '.join(map(repr, unknown))} are not classes of the model "
            f"({', '.join(model.classes)}); rename them or leave them blank"
        )


def _limited(dataset: "Dataset", limit: int | None, seed: int) -> "Dataset":
    if limit is None or limit >= len(dataset):
        return dataset
    from diffdx._random import epoch_order

    order = epoch_order(seed, 0, len(dataset))[:limit].tolist()
    return dataset.subset([dataset.records[i] for i in sorted(order)])


def rows_per_call(text: str) -> "BatchSizeOption":
    """Return the value of `--batch-size`.

    Raises:
        ConfigError: if it is neither auto nor a positive number.
    """
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--batch-size {text}: use auto or a number of at least 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit()):
        raise ConfigError(f"--shard {text}: use I/N, as in 2/4")
    return int(first), int(count)


def _summary(folder: Path, table: "pd.DataFrame", info: dict[str, Any]) -> str:
    """Return the first rows as text: image, decision, vote share, entropy."""
    lines = []
    for row in table.head(SHOWN).to_dict("records"):
        if row["status"] == "error":
            lines.append(f"{row['path']}  error: {row['error']}")
            continue
        share = row[f"vote_share_{row['prediction']}"]
        lines.append(
            f"{row['path']}  {row['prediction']}  vote share {share:.3f}  "
            f"entropy {row['entropy_bits']:.3f} bits"
        )
    if len(table) > SHOWN:
        lines.append(f"... and {len(table) - SHOWN} more")
    rate = f"{info['seconds']:.1f} s, {info['device']}, {info['precision']}"
    return "\n".join([*lines, f"{NOTICE} {rate}", str(folder / "predictions.csv")])
