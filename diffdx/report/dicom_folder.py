"""DICOM objects of a classified folder: for each DICOM image a report, and the maps if explained.

    HASH/report.dcm         structured report, TID 1500
    HASH/difference.dcm     Secondary Capture: what changes from the image's class to the other
    HASH/evidence.dcm       Secondary Capture: where the decision comes from

HASH stands for the image's SOP instance UID; no file name carries an identifier. Images that are no
DICOM files have no study to file a result in, and are counted.
"""

import json
import os
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydicom.dataset import Dataset

from diffdx.classification.predictions import CLASSIFY_FILE, read_predictions
from diffdx.data.dicom import describe_dicom, is_dicom, read_head
from diffdx.errors import DataError
from diffdx.report.dicom_capture import Picture, secondary_capture
from diffdx.report.dicom_source import read_source, write_object
from diffdx.report.dicom_sr import structured_report
from diffdx.report.explanation_figures import DIFFERENCE_LIMIT, overlay, smoothed
from diffdx.transforms.pixels import to_uint8
from diffdx.uncertainty.calibration import CALIBRATION_FILE

EXPLANATIONS_FILE = "explanations.parquet"


@dataclass
class Written:
    """What `write_objects` has made."""

    objects: list[Path] = field(default_factory=list)
    n_other: int = 0
    """Images that are no DICOM files, or were not classified."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why other images have no objects, by image id."""


def write_objects(predictions: Path, out: Path, explanations: Path | None = None) -> Written:
    """Write the DICOM objects of every DICOM image of a predictions folder.

    Args:
        predictions: Written by `diffdx classify`.
        out: Where the objects go.
        explanations: Written by `diffdx explain` for these images; without it there are no maps.

    Raises:
        CheckpointError: if the table cannot be read.
        DataError: if there are no explanations where they are said to be.
    """
    made = predictions / CLASSIFY_FILE
    settings = json.loads(made.read_text(encoding="utf-8")) | _deployed(predictions)
    explained = {} if explanations is None else _explained(explanations)
    written = Written()
    for row in read_predictions(predictions).to_dict("records"):
        path = Path(row["path"])
        if row["status"] != "ok" or not is_dicom(read_head(path)):
            written.n_other += 1
            continue
        try:
            if path.stat().st_mtime > made.stat().st_mtime:
                raise DataError(
                    f"{str(path)!r}: changed after it was classified, so the result may be of "
                    "another image; classify it again"
                )
            folder = out / str(describe_dicom(path)["instance"])
            source = read_source(path)
            objects = {"report": structured_report(path, source, row, settings)}
            objects |= _maps(path, source, explained.get(os.path.abspath(path)), settings)
            for name, made_object in objects.items():
                write_object(folder / f"{name}.dcm", made_object)
                written.objects.append(folder / f"{name}.dcm")
        except DataError as error:
            written.failures[row["image_id"]] = str(error)
    return written


def _deployed(predictions: Path) -> dict[str, Any]:
    """Return what the folder's calibration says that a reader of its columns needs to know."""
    path = predictions / CALIBRATION_FILE
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    (entry,) = stored["by_stop"].values()
    shares = ", ".join(f"{name} {p:.3f}" for name, p in stored["deployed"]["shares"].items())
    return {
        "alpha": entry["conformal"]["alpha"],
        "prevalence": f"{shares} ({stored['deployed']['source']})",
    }


def _explained(explanations: Path) -> dict[str, dict[Hashable, Any]]:
    """Return the rows of explained images by their files, each with its folder's path.

    Raises:
        DataError: if the table is not there.
    """
    table_file = explanations / EXPLANATIONS_FILE
    if not table_file.is_file():
        raise DataError(f"{table_file}: no such file; name a folder written by 'diffdx explain'")
    table = pd.read_parquet(table_file)
    rows = table[table["status"] == "ok"].to_dict("records")
    return {
        os.path.abspath(row["path"]): row | {"folder": explanations / row["folder"]} for row in rows
    }


def _maps(
    path: Path, source: Dataset, row: Mapping[Hashable, Any] | None, settings: Mapping[str, Any]
) -> dict[str, Dataset]:
    if row is None:
        return {}
    drawn = enumerate(_drawn(row), start=1)
    return {
        name: secondary_capture(path, source, picture, legend, number, settings["model_sha256"])
        for number, (name, picture, legend) in drawn
    }


def _drawn(row: Mapping[Hashable, Any]) -> Iterator[tuple[str, Picture, str]]:
    """Yield each map of an explained image: its name, itself over the image, its legend."""
    with np.load(row["folder"] / "arrays.npz") as arrays:
        x, evidence = arrays["x"], arrays["evidence"]
        change = (arrays["x_cf"] - arrays["x_factual"]).mean(axis=0)
    image = np.moveaxis(to_uint8(x), 0, -1)
    image = image[..., 0] if image.shape[-1] == 1 else image
    size = f"as the model sees the image, {image.shape[1]} x {image.shape[0]} pixels"
    source, target = row["y_src"], row["y_cf"]
    if source != target:  # else nothing was changed
        yield (
            "difference",
            overlay(image, change, DIFFERENCE_LIMIT),
            f"Difference, {size}: red where it would be brighter as {target} than as {source}, "
            f"blue where darker; full colour at {DIFFERENCE_LIMIT:g} of a range of 2.",
        )
    other = target if source != target else "any other class"
    yield (
        "evidence",
        overlay(image, *smoothed(evidence)),
        f"Evidence, {size}: red where the image is denoised better as {source}, blue as {other}; "
        "full colour at its own largest value.",
    )
