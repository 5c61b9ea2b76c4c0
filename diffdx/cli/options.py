"""Options that several verbs share, each declared once."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx.classification.denoising_errors import BatchSizeOption

    Context = typer.Context
else:
    # What a verb is given where it asks for a typer.Context is an instance of that class's parent.
    Context = typer.Context.__base__

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of network calls.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
BatchSize = Annotated[str, typer.Option(help="auto or a number of network rows per call.")]
NumWorkers = Annotated[int, typer.Option(min=0, help="Threads that decode images.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file laid out like a run's config.yaml.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, as in --set train.batch_size=64; may be repeated."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is in the output folder.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, then stop.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell more on the way.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Plain lines in place of a bar.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Rule = Annotated[
    Literal["vote", "mean", "weighted"],
    typer.Option(help="Which rule decides; weighted needs a calibrated run."),
]
Space = Annotated[Literal["v", "eps", "x"], typer.Option(help="Space of mean errors.")]
Prevalence = Annotated[
    str | None,
    typer.Option(
        help="Where the model is used: the positive class's share, or CLASS=SHARE,...; em: "
        "estimated from the images there. By default that of the calib images."
    ),
]
Recipe = Annotated[
    Literal["fixed", "denoising", "paper", "release"] | None,
    typer.Option(
        help="As measured best, without its contrastive term, as the paper says, as its code does."
    ),
]
Positive = Annotated[str | None, typer.Option(help="The class that F1 and AUROC mean.")]
Split = Annotated[
    Literal["train", "val", "calib", "test"] | None, typer.Option(help="Only this role.")
]
Uncertain = Annotated[
    Literal["drop", "zero", "one"] | None,
    typer.Option(help="What CheXpert's uncertain labels become; there is no default."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first N images of a seeded shuffle.")
]
Stop = Annotated[
    str,
    typer.Option(
        help="When an image stops: none, exact, DELTA (its error against all trials), share:WIDTH."
    ),
]
Eliminate = Annotated[
    bool, typer.Option("--eliminate", help="Drop hopeless classes; carries no guarantee.")
]


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


def refuse(context: Context, names: Iterable[str], because: str) -> None:
    """Check that none of these parameters of a verb was given on the command line.

    Raises:
        ConfigError: naming those that were: they would be ignored in silence.
    """
    given = [name for name in names if _was_given(context, name)]
    if given:
        listing = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{because}: leave out {listing}")


def _was_given(context: Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


Splits = Annotated[
    list[Path] | None,
    typer.Option(help="Splits to use: a run's splits.csv or published lists."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
AllowLeak = Annotated[
    bool, typer.Option("--allow-leak", help="Accept a patient or image in two roles.")
]
Force = Annotated[bool, typer.Option("--force", help="Resume with other settings.")]
StopAtBadImage = Annotated[bool, typer.Option("--strict", help="Stop at a bad image.")]
Frame = Annotated[int | None, typer.Option(min=0, help="Frame of multi-frame files.")]
Minutes = Annotated[float | None, typer.Option(help="Training time.")]
Data = Annotated[str, typer.Argument(help="Folder, CSV or NAME:ROOT; see the data guide.")]
RunOut = Annotated[Path, typer.Option(help="Run folder to write.")]
