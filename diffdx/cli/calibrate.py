"""`diffdx calibrate`: probabilities, sets, triage and gate, fitted to the calib images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffdx.cli import options
from diffdx.cli.classify import check_labels, of_role, rows_per_call
from diffdx.cli.console import NOTICE, Reporter
from diffdx.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from diffdx._typing import Space
    from diffdx.backbones.model import DiffusionModel
    from diffdx.classification.settings import ClassifySettings
    from diffdx.evaluation import StoredPredictions
    from diffdx.uncertainty.calibration import Calibration
    from diffdx.uncertainty.fit import CalibrationImages

FOLDER = "calibration"
"""Where below the run the calib images are classified, all trials of them."""


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        str, typer.Argument(help="The run's dataset, or a predictions folder of calib images.")
    ],
    prevalence: options.Prevalence = None,
    alpha: Annotated[float, typer.Option(help="Share of sets that may miss the truth.")] = 0.1,
    stop: Annotated[str, typer.Option(help="The --stop of the runs to calibrate.")] = "none",
    rule: Annotated[Literal["vote", "mean"], typer.Option(help="The rule that stops.")] = "vote",
    space: options.Space = "v",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per image.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="Frame of multi-frame files.")] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    as_json: options.Json = False,
) -> None:
    """Fit probabilities, conformal sets, triage and out-of-distribution gate; saved into the run.

    Images of the role calib alone are used. All their trials are kept in RUN/calibration, so that
    the same for another --stop needs no network. Research use only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        if not 0 < alpha < 1:
            raise ConfigError(f"--alpha {alpha}: use a number above 0 and below 1, as in 0.1")
        from diffdx.backbones.model import DiffusionModel
        from diffdx.classification.predictions import CLASSIFY_FILE
        from diffdx.classification.settings import ClassifySettings
        from diffdx.evaluation import read_predictions
        from diffdx.uncertainty.fit import fit_calibration
        from diffdx.uncertainty.prevalence import parse_prevalence

        model = DiffusionModel.load(run)
        deployed: dict[str, float] | str = "calib"
        if prevalence is not None:
            deployed = parse_prevalence(prevalence, list(model.classes), model.positive)
        folder = Path(data)
        if not (folder / CLASSIFY_FILE).is_file():
            folder = run / FOLDER
            settings = ClassifySettings(
                num_trials=trials or 501,
                seed=seed,
                batch_size=rows_per_call(batch_size),
                device=device,
                precision=precision,
            )
            _classify(model, run, data, frame, folder, settings, reporter)
        stored = read_predictions(folder).labelled()
        require_calib(stored, run, model)
        images, key = _as_stopped(stored, stop, rule, space, trials)
        entry = fit_calibration(
            images, stop=key, alpha=alpha, prevalence=deployed, where=str(folder), seed=seed
        )
        path = _save(run, model, entry)
        for warning in entry.warnings:
            reporter.warn(warning)
        reporter.result(f"{describe(entry)}\n{path}", {"out": str(path), **entry.as_dict()})


def _classify(
    model: "DiffusionModel",
    run: Path,
    data: str,
    frame: int | None,
    folder: Path,
    settings: "ClassifySettings",
    reporter: Reporter,
) -> None:
    """Classify the dataset's calib images into the run, going on where that was cut."""
    from diffdx.classification.runner import classify_dataset
    from diffdx.data.readers import open_inputs

    dataset = of_role(open_inputs([data], frame=frame), run, "calib")
    check_labels(dataset, model)
    title = f"classifying {len(dataset)} calib images"
    with reporter.working(), reporter.progress(title) as line:
        classify_dataset(
            model,
            dataset,
            folder,
            settings,
            lambda done, total: line.update(done / max(total, 1), f"{done} of {total}"),
        )


def require_calib(stored: "StoredPredictions", run: Path, model: "DiffusionModel") -> None:
    """Check that predictions are this model's, and of images that it may be calibrated on.

    Every image must have the role calib in the run's `splits.csv`, or a known patient who has no
    role in it.

    Raises:
        CheckpointError: if they are another model's.
        DataError: if an image or patient has another role, or it cannot be told: on images that the
            model was fitted to or is tested on, any calibration looks better than it is.
    """
    from diffdx.data.splits import load_splits

    where = f"{stored.folder}/predictions.parquet"
    if stored.settings.get("model_sha256") != model.sha256:
        raise CheckpointError(
            f"{stored.folder}/classify.json: model_sha256 is not that of {run}; "
            "give predictions made with this run"
        )
    splits = load_splits(run / "splits.csv")
    listed = dict(zip(splits["image_id"], splits["role"], strict=True))
    roles = stored.table["image_id"].map(listed)
    others = splits[(splits["role"] != "calib") & splits["patient_id"].notna()]
    other_role = dict(zip(others["patient_id"], others["role"], strict=True))
    patients = stored.table["patient_id"]
    by_patient = patients.map(other_role)
    for column, found in (("image_id", roles[roles != "calib"]), ("patient_id", by_patient)):
        counts = found.dropna().value_counts()
        if len(counts):
            listing = ", ".join(f"{count} in {role}" for role, count in counts.items())
            raise DataError(
                f"{where}: column {column}: images overlap the other roles of {run}/splits.csv "
                f"({listing}); calibrate on images of the role calib only"
            )
    some_known = bool(splits["patient_id"].notna().any())
    checkable = patients.fillna("").ne("") if some_known else patients.isin([])
    unknown = int((roles.isna() & ~checkable).sum())
    if unknown:
        raise DataError(
            f"{where}: {unknown} images are not in {run}/splits.csv and have no patient to tell "
            "that the model was not trained or tested on them; give the images of the role calib"
        )


def _as_stopped(
    stored: "StoredPredictions", stop: str, rule: str, space: "Space", trials: int | None
) -> tuple["CalibrationImages", str]:
    """Return the images as a run with these options leaves them, and that run's key."""
    import dataclasses

    from diffdx.classification.rules import rule_name
    from diffdx.classification.stopping import difference_bound, stopping_rule, truncated
    from diffdx.uncertainty.calibration import stop_key
    from diffdx.uncertainty.fit import CalibrationImages

    num_trials = stored.errors.shape[2]
    if stored.settings["stop"] != "none" or (trials or 1) > num_trials:
        raise ConfigError(
            f"{stored.folder}/classify.json: stop {stored.settings['stop']!r}, "
            f"{num_trials} trials: --stop and --trials are replayed on predictions made with "
            "--stop none and no fewer trials; give such a folder"
        )
    errors, logsnr = stored.errors[:, :, :trials], stored.logsnr[:, :trials]
    images = CalibrationImages(
        errors,
        logsnr,
        stored.labels,
        stored.patients,
        tuple(stored.classes),
        None if stored.positive is None else stored.classes[stored.positive],
        stored.settings["ties"],
    )
    key_of = {"stop": stop, "rule": rule, "space": space}
    if stop == "none":
        return images, stop_key(key_of)
    images.require_enough(str(stored.folder))
    by_mean = rule == "mean"
    stopping = stopping_rule(
        stop,
        rule=rule_name(rule, space),
        num_classes=len(images.classes),
        num_trials=errors.shape[2],
        ties=images.ties,
        bound=difference_bound(errors, logsnr, space) if by_mean else None,
    )
    return dataclasses.replace(images, errors=truncated(errors, logsnr, stopping)), stop_key(key_of)


def _save(run: Path, model: "DiffusionModel", entry: "Calibration") -> Path:
    """Add the entry to the run's calibration; one of earlier weights is replaced as a whole."""
    from diffdx.uncertainty.calibration import CalibrationFile, read_calibration

    stored = read_calibration(run)
    if stored is None or stored.model_sha256 != model.sha256:
        stored = CalibrationFile(model.sha256, tuple(model.classes), model.positive, {})
    return stored.with_entry(entry).write(run)


def describe(entry: "Calibration") -> str:
    """Return what was fitted, and how it did on images that the fit had not seen, as text."""
    model, held_out = entry.probability, entry.held_out
    lines = [
        f"{entry.counts['n']} calib images of {entry.counts['patients']} patients, "
        f"{entry.trials} trials, stop {entry.stop}",
        f"probability: {model.calibrator.method} of the {model.statistic} statistic; on patients "
        f"held out: ECE {held_out['ece']:.3f} (a perfect one of this size: "
        f"{held_out['ece_floor']:.3f}), Brier {held_out['brier']:.3f}, "
        f"log loss {held_out['log_loss']:.3f}",
        f"{'statistic':<12}{'calibrator':<12}{'log loss':>9}",
    ]
    for row in entry.candidates:
        mark = "*" if row["chosen"] else " "
        lines.append(f"{mark}{row['statistic']:<11}{row['method']:<12}{row['log_loss']:>9.4f}")
    shares = entry.prevalence if isinstance(entry.prevalence, dict) else entry.prior
    text = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    source = entry.prevalence if isinstance(entry.prevalence, str) else "given"
    lines.append(f"prevalence: {source} ({text})")
    return "\n".join([*lines, NOTICE])
