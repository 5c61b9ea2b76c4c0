"""`diffdx report`: one self-contained HTML page for each predictions folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.errors import DataError

if TYPE_CHECKING:
    from diffdx.data.dataset import Dataset


def report(
    folders: Annotated[list[Path], typer.Argument(help="Evaluated predictions folders.")],
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Write report.html into each folder. Research use only, not a medical device."""
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from diffdx.report.html import write_report

        pages = [
            str(write_report(folder, title=folder.name, gallery=pictures(folder)))
            for folder in folders
        ]
        reporter.result("\n".join(pages), {"pages": pages})


def pictures(folder: Path, dataset: "Dataset | None" = None) -> list[tuple[str, Any]]:
    """Return captions and 8-bit pixels of the images worth showing.

    Args:
        folder: Evaluated predictions.
        dataset: Where the pixels are; by default the files named in the table. Images that are no
            longer there are left out.
    """
    import numpy as np

    from diffdx.data.dataset import FileSource, Record
    from diffdx.evaluation import read_predictions
    from diffdx.report.gallery import pick_gallery

    stored = read_predictions(folder)
    known = {r.image_id: r for r in dataset.records} if dataset else {}
    source = dataset or FileSource()
    shown: list[tuple[str, Any]] = []
    for caption, row in pick_gallery(stored):
        image_id, path = stored.table[["image_id", "path"]].iloc[row]
        try:
            pixels = source.pixels(known.get(image_id) or Record(image_id=image_id, path=path))
        except DataError:
            continue
        top = np.iinfo(pixels.dtype).max
        shown.append((caption, np.rint(pixels * (255.0 / top)).astype(np.uint8)))
    return shown
