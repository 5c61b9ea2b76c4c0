"""Predictions folders of the same images, in the same order; what does not match is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffdx.classification import predictions
from diffdx.errors import ConfigError, DataError
from diffdx.evaluation.predictions import StoredPredictions, read_predictions


def matched(folders: Sequence[Path]) -> tuple[list[StoredPredictions], int]:
    """Return labelled predictions on the same images in the same order, and how many are left out.

    Left out are images that failed in some folder or have no label.

    Args:
        folders: Outputs of `diffdx classify`, one or more.

    Raises:
        DataError: if the folders hold other images, labels or classes, or no image is labelled and
            classified in all of them: what differs between them would not be the models alone.
    """
    every = [read_predictions(folder) for folder in folders]
    first = every[0]
    listed = [_all_ids(folder) for folder in folders]
    for stored, ids in zip(every[1:], listed[1:], strict=True):
        if _task(stored) != _task(first):
            raise DataError(
                f"{stored.folder}/classify.json: {_task(stored)}, but {_task(first)} in "
                f"{first.folder}; compare runs of one task"
            )
        if ids != listed[0]:
            raise DataError(
                f"{stored.folder}/predictions.parquet: {len(ids ^ listed[0])} values of image_id "
                f"are not in both it and {first.folder}; classify the same images with both"
            )
    known = [stored.labelled() for stored in every]
    common = set.intersection(*(set(stored.table["image_id"]) for stored in known))
    order = [image_id for image_id in known[0].table["image_id"] if image_id in common]
    if not order:
        raise DataError(f"{first.folder}: no image is labelled and classified in every folder")
    aligned = [_aligned(stored, order) for stored in known]
    for stored in aligned[1:]:
        if stored.table["label"].tolist() != aligned[0].table["label"].tolist():
            raise DataError(
                f"{stored.folder}/predictions.parquet: column label differs from that of "
                f"{first.folder} for the same image_id; classify both from one dataset"
            )
    return aligned, len(listed[0]) - len(order)


def check_calib(runs: Sequence[StoredPredictions], calib: Sequence[StoredPredictions]) -> None:
    """Check that calib predictions are those of the runs, on other images.

    Raises:
        ConfigError: if some runs have a calib folder and others have none.
        DataError: if one is another model's or rule's, or holds an image that the runs are compared
            on: the fusion would be fitted to its own test.
    """
    if calib and len(calib) != len(runs):
        raise ConfigError(
            f"--calib: {len(calib)} folders for {len(runs)} runs; give one for each, in their order"
        )
    for run, reader in zip(runs, calib, strict=False):
        sha256 = [stored.settings.get("model_sha256") for stored in (run, reader)]
        if sha256[0] != sha256[1] or run.rule != reader.rule:
            raise DataError(
                f"{reader.folder}/classify.json: model_sha256 or rule is not that of {run.folder}; "
                "give --calib in the order of the runs, classified alike"
            )
        shared = set(run.table["image_id"]) & set(reader.table["image_id"])
        patients = {p for p in run.patients if p.startswith("patient")} & set(reader.patients)
        if shared or patients:
            raise DataError(
                f"{reader.folder}/predictions.parquet: {len(shared)} images and {len(patients)} "
                f"patients are in {run.folder} too; fit on other images than you test on"
            )


def _task(stored: StoredPredictions) -> str:
    return f"classes {', '.join(stored.classes)}, positive {stored.settings['positive']}"


def _all_ids(folder: Path) -> set[str]:
    """Return the ids of all images, failed ones too."""
    return set(predictions.read_predictions(folder)["image_id"])


def _aligned(stored: StoredPredictions, order: Sequence[str]) -> StoredPredictions:
    place = {image_id: row for row, image_id in enumerate(stored.table["image_id"])}
    rows = np.array([place[image_id] for image_id in order], dtype=np.int64)
    return replace(
        stored,
        table=stored.table.iloc[rows].reset_index(drop=True),
        errors=stored.errors[rows],
        logsnr=stored.logsnr[rows],
    )
