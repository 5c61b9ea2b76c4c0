"""`diffdx explain`: what an image would look like in another class, and what decided its class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import EXIT_SOME_FAILED, NOTICE, Reporter
from diffdx.cli.explaining import explain_dataset
from diffdx.cli.fitted import fitted_parts
from diffdx.cli.folders import require_room
from diffdx.cli.inputs import chosen_images
from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx.backbones.model import DiffusionModel


def explain(
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    inputs: Annotated[list[str], typer.Argument(help="Dataset, folder, CSV or image files.")],
    to: Annotated[str, typer.Option(help="Class to turn each image into.")],
    from_: Annotated[
        str | None, typer.Option("--from", help="Class to explain it as; default: its prediction.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    split: options.Split = None,
    t_start: Annotated[
        float | None,
        typer.Option(help="Noise level to start from, a log-SNR in nats; lower edits more."),
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale, above 0 to 20; 1 is none.")] = None,
    method: Annotated[
        Literal["noise", "ddim", "contrast"],
        typer.Option(
            help="Add noise (paper), invert the sampler, or do so guided between classes."
        ),
    ] = "contrast",
    draws: Annotated[int, typer.Option(min=1, help="Noises to average over.")] = 1,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 20,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each classification.")] = 101,
    bank: Annotated[int, typer.Option(min=1, help="Trials in the bank.")] = 501,
    rule: options.Rule = "vote",
    space: options.Space = "v",
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of `classify --evidence` with these images.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Run of a baseline that says whether images flipped.")
    ] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Keep what each sampling step expects.")
    ] = False,
    frame: options.Frame = None,
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
    """Explain images: counterfactual, difference, evidence, scorecard. Research use only.

    Exit code 3 means that some images could not be explained; the table says which and why.
    """
    reporter = Reporter(quiet, verbose, no_progress, as_json)
    with reporter.ending():
        from diffdx._device import keep_freed_memory, resolve_device, resolve_precision
        from diffdx.backbones.model import DiffusionModel
        from diffdx.classification.denoising_errors import resolve_batch_size
        from diffdx.data.readers import open_inputs
        from diffdx.explain.counterfactual import EditSettings
        from diffdx.explain.explainer import Explainer, ExplainSettings
        from diffdx.explain.judges import BaselineJudge
        from diffdx.explain.predicted import Predicted

        where = resolve_device(device)
        keep_freed_memory()
        model = DiffusionModel.load(run).to(where)
        known = None if predictions is None else Predicted(predictions, model)
        edit = EditSettings.of(
            model,
            logsnr_start=t_start,
            guidance_scale=guidance,
            method=method,
            num_steps=steps,
            draws=draws,
            seed=seed,
            precision=resolve_precision(precision, where),
        )
        settings = ExplainSettings(
            y_cf=_class(model, to, "--to"),
            y_src=None if from_ is None else _class(model, from_, "--from"),
            edit=edit,
            batch_size=resolve_batch_size(options.rows_per_call(batch_size), where),
            keep_trajectory=trajectory,
            **(_classifying(run, trials, bank, rule, space) if known is None else known.settings),
        )
        explainer = Explainer(model, settings)
        baseline = None if judge is None else BaselineJudge(judge, model)
        dataset = open_inputs(inputs, frame=frame)
        dataset = chosen_images(dataset, run, model, split=split, limit=limit, seed=seed)
        folder = out or Path("out") / f"explain-{run.name}"
        require_room(folder, overwrite=overwrite, inputs=[run, *inputs])
        info = explain_dataset(
            reporter, dataset, explainer, folder, known=known, judge=baseline, seed=seed
        )
        reporter.result(_summary(folder, info), {"out": str(folder), **info})
        _warn(reporter, info)
        if info["n_failed"]:
            raise typer.Exit(EXIT_SOME_FAILED)


def _classifying(run: Path, trials: int, bank: int, rule: str, space: str) -> dict[str, Any]:
    """Return the fields of `ExplainSettings` that say how images are classified."""
    weights = fitted_parts(run, rule=rule, space=space, stop="none", trials=trials)[1]
    return {
        "num_trials": trials,
        "bank_size": bank,
        "rule": rule,
        "space": space,
        "weights": weights,
    }


def _class(model: "DiffusionModel", name: str, option: str) -> int:
    if name not in model.classes:
        raise ConfigError(f"{option} {name}: the model knows {', '.join(model.classes)}")
    return model.classes.index(name)


def _warn(reporter: Reporter, info: dict[str, Any]) -> None:
    """Say what a reader of the maps must know."""
    if info["n_same_class"]:
        reporter.warn(
            f"{info['n_same_class']} images are {info['target']} already: their difference is "
            "exactly zero"
        )
    if info["n_vote_disagrees"]:
        reporter.warn(
            f"in {info['n_vote_disagrees']} images the vote leans against the evidence: their maps "
            "show what the mean error sees, not what the vote decided"
        )
    if info["n_failed"]:
        reporter.warn(f"{info['n_failed']} of {info['n']} images failed; see column 'error'")


def _summary(folder: Path, info: dict[str, Any]) -> str:
    lines = [f"{info['n'] - info['n_failed']} of {info['n']} images explained as {info['target']}"]
    for name, score in info.get("scorecard", {}).items():
        if score["value"] is not None:
            interval = f"{score['low']:.3f} to {score['high']:.3f}" if score["n"] > 1 else "one"
            lines.append(f"{name:28} {score['value']:.3f}  ({interval}, n = {score['n']})")
    lines.append(f"{info['nfe']} network evaluations, log-SNR {info['logsnr_start']:g}. {NOTICE}")
    return "\n".join([*lines, str(folder / "sheet.png")])
