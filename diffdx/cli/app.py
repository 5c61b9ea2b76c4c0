"""The `diffdx` command: its verbs, its version, and arguments that take several values."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from diffdx.cli.audit import audit
from diffdx.cli.baseline import baseline
from diffdx.cli.calibrate import calibrate
from diffdx.cli.classify import classify
from diffdx.cli.convert import convert
from diffdx.cli.data import app as data_app
from diffdx.cli.demo import demo
from diffdx.cli.dicom import app as dicom_app
from diffdx.cli.doctor import doctor
from diffdx.cli.evaluate import evaluate
from diffdx.cli.explain import explain
from diffdx.cli.export import export
from diffdx.cli.finetune import finetune
from diffdx.cli.replay import replay
from diffdx.cli.report import report
from diffdx.cli.reproduce import reproduce
from diffdx.cli.sample import sample
from diffdx.cli.serve import serve
from diffdx.cli.train import train

MULTIPLE = ("--splits", "--calib", "--allow", "--only")
"""Options that take several values after one name."""

app = typer.Typer(
    name="diffdx",
    help="Class-conditional diffusion models as medical image classifiers that say how sure they "
    "are and show why. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    demo,
    audit,
    train,
    finetune,
    baseline,
    sample,
    classify,
    replay,
    calibrate,
    evaluate,
    explain,
    report,
    reproduce,
    serve,
    export,
    convert,
    doctor,
):
    app.command()(verb)
app.add_typer(data_app)
app.add_typer(dicom_app)


def _print_version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"diffdx {version('diffdx')}")
        raise typer.Exit
    return asked


@app.callback()
def root(
    # Eager: a callback runs before the missing verb is noticed.
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Options before the verb."""


def repeat_names(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--splits A B` written as `--splits A --splits B`."""
    repeated: list[str] = []
    name = ""
    for argument in arguments:
        if argument.startswith("-"):
            name = argument if argument in MULTIPLE else ""
        elif name and repeated[-1] != name:
            repeated.append(name)
        repeated.append(argument)
    return repeated


def main() -> None:
    """Run the command line."""
    app(args=repeat_names(sys.argv[1:]))
