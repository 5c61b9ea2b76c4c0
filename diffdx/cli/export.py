"""`diffdx export`: the part of a run that is needed to use it, in half the size."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.cli.folders import require_room

RECORDS = ("config.yaml", "run.json", "model_card.md", "metrics.jsonl")


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the stored network weights.")
    ] = "bfloat16",
    with_splits: Annotated[
        bool, typer.Option("--with-splits", help="Also which image is in which role, by file name.")
    ] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Copy the best checkpoint and the run's records, without optimiser and raw weights.

    bfloat16 rounds every weight to 8 bits of mantissa: errors move slightly, and so does the hash.
    """
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx.backbones.model import DiffusionModel
        from diffdx.data.splits import load_splits, save_splits

        model = DiffusionModel.load(run)
        require_room(out, overwrite=overwrite, inputs=[run])
        digest = model.save(out / "checkpoints" / "best", dtype=dtype)
        for name in RECORDS:
            if (run / name).is_file():
                shutil.copyfile(run / name, out / name)
        if with_splits:
            splits = load_splits(run / "splits.csv")
            # Patients stay at home: only what `classify --split` needs leaves.
            save_splits(splits.assign(patient_id=None), out / "splits.csv")
        reporter.result(
            f"weights {digest[:12]}, {dtype}\n{out}", {"out": str(out), "sha256": digest}
        )
