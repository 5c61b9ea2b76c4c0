"""`diffdx calibrate`: probabilities, sets, triage and gate, fitted to the calib images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from diffdx.cli import options
from diffdx.cli.calib_images import as_stopped, calib_images, calib_stopping
from diffdx.cli.console import NOTICE, Reporter
from diffdx.cli.inputs import chosen_images
from diffdx.cli.models import OF_TRIALS, classify_images, load_model
from diffdx.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from diffdx._device import PrecisionOption
    from diffdx.classification.denoising_errors import BatchSizeOption
    from diffdx.cli.models import Model
    from diffdx.data.dataset import Dataset
    from diffdx.uncertainty.calibration import Calibration

FOLDER = "calibration"
"""Where below the run the calib images are classified, all trials of them."""
ALTERED = "-altered"
"""What follows that name, or the name of a folder that is given, where the copies are."""
ALTERED_TRIALS = 101
"""Trials of an altered copy at most: it is one more image to fit to, not one to decide about."""


def calibrate(
    context: options.Context,
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        str, typer.Argument(help="The run's dataset, or a predictions folder of calib images.")
    ],
    prevalence: options.Prevalence = None,
    altered: Annotated[
        bool, typer.Option("--altered", help="Fit probabilities to altered copies too.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Share of sets that may miss the truth.")] = 0.1,
    stop: Annotated[str, typer.Option(help="The --stop of the runs to calibrate.")] = "none",
    rule: Annotated[Literal["vote", "mean"], typer.Option(help="The rule that stops.")] = "vote",
    space: options.Space = "v",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per image.")] = None,
    frame: options.Frame = None,
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
    the same for another --stop needs no network. With --altered the probabilities are also fitted
    to a copy of each image, changed as another scanner or processing might have done, which makes
    them hold better at another site. Research use only, not a medical device.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        if not 0 < alpha < 1:
            raise ConfigError(f"--alpha {alpha}: use a number above 0 and below 1, as in 0.1")
        from diffdx.backbones.classifiers import is_baseline
        from diffdx.classification.predictions import CLASSIFY_FILE
        from diffdx.data.alterations import altered_copies
        from diffdx.data.readers import open_inputs
        from diffdx.uncertainty.calibration import stop_key
        from diffdx.uncertainty.fit import fit_calibration
        from diffdx.uncertainty.prevalence import parse_prevalence

        baseline = is_baseline(run)
        if baseline:
            options.refuse(context, OF_TRIALS, f"{run} is a baseline, without trials")
        model = load_model(run)
        deployed: dict[str, float] | str = "calib"
        if prevalence is not None:
            deployed = parse_prevalence(prevalence, list(model.classes), model.positive)
        folder = Path(data)
        if not (folder / CLASSIFY_FILE).is_file():
            folder = run / FOLDER
            how = _Computing(options.rows_per_call(batch_size), device, precision)
            images = open_inputs([data], frame=frame)
            dataset = chosen_images(images, run, model, split="calib", limit=None, seed=seed)
            full = trials or 501
            _classify(model, dataset, folder, full, seed, how, reporter)
            if altered:
                copies, few = altered_copies(dataset, seed=seed), min(full, ALTERED_TRIALS)
                _classify(model, copies, _beside(folder), few, seed, how, reporter)
        read = [folder, _beside(folder)] if altered else [folder]
        parts = [calib_images(part, run, model) for part in read]
        if not baseline:
            stopping = calib_stopping(parts[0], folder, stop, rule, space, trials)
            parts = [as_stopped(part, stopping, trials) for part in parts]
        entry = fit_calibration(
            *parts,
            stop=stop_key({"stop": stop, "rule": rule, "space": space}),
            alpha=alpha,
            prevalence=deployed,
            where=str(folder),
            seed=seed,
        )
        path = _save(run, model, entry)
        for warning in entry.warnings:
            reporter.warn(warning)
        reporter.result(f"{describe(entry)}\n{path}", {"out": str(path), **entry.as_dict()})


def _beside(folder: Path) -> Path:
    """Return the folder of the altered copies of a folder's images."""
    return folder.with_name(folder.name + ALTERED)


class _Computing(NamedTuple):
    batch_size: "BatchSizeOption"
    device: str
    precision: "PrecisionOption"


def _classify(
    model: "Model",
    dataset: "Dataset",
    folder: Path,
    trials: int,
    seed: int,
    how: _Computing,
    reporter: Reporter,
) -> None:
    """Classify images of the role calib, going on where that was cut."""
    from diffdx.backbones.classifiers import Baseline
    from diffdx.classification.settings import ClassifySettings
    from diffdx.classification.supervised import SupervisedSettings

    settings: ClassifySettings | SupervisedSettings
    if isinstance(model, Baseline):
        settings = SupervisedSettings(**how._asdict())
    else:
        settings = ClassifySettings(num_trials=trials, seed=seed, **how._asdict())
    classify_images(reporter, model, dataset, folder, settings)


def _save(run: Path, model: "Model", entry: "Calibration") -> Path:
    """Add the entry to the run's calibration.

    One of earlier weights, or that cannot be read, is replaced as a whole.
    """
    from diffdx.uncertainty.calibration import CalibrationFile, read_calibration

    try:
        stored = read_calibration(run)
    except CheckpointError:
        stored = None
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
        *_describe_altered(entry.held_out_altered),
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


def _describe_altered(held_out: dict[str, Any] | None) -> list[str]:
    if held_out is None:
        return []
    return [
        f"on {held_out['n']} altered copies, likewise held out: ECE {held_out['ece']:.3f}, "
        f"log loss {held_out['log_loss']:.3f}"
    ]
