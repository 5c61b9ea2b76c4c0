"""Options that several verbs share, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
        "estimated from the images there; site: with a shift of their scores besides. "
        "By default that of the calib images."
    ),
]
Positive = Annotated[str | None, typer.Option(help="The class that F1 and AUROC mean.")]
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
