"""Lists of images as they are published: which image is in which split, by tables alone.

A list is any CSV (also gzipped) that names its images in one of the columns `IDS`. The label is the
column of `LABELS` that comes first or, where there is none, the one of several 0/1 columns that is
1 in a row. The patient is the column `patient_id` or, as in CheXpert, a folder `patient...` of the
path. The role is the column `role` or `split`, or the file's name: `...train.csv`, `...valid.csv`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffdx.data.dataset import listing
from diffdx.data.tables import ROLES_BY_NAME
from diffdx.errors import DataError

IDS = ("image_id", "image_name", "path", "image", "isic_id")
LABELS = ("label", "target", "dx", "benign_malignant", "diagnosis")
CORE = ("image_id", "label", "patient_id", "role")
_SUFFIXES = frozenset({"jpg", "jpeg", "png", "tif", "tiff", "bmp", "dcm"})
_PATIENT_FOLDER = re.compile(r"(?:^|/)(patient[^/]+)/")


def read_columns(path: Path) -> pd.DataFrame:
    """Return a table as text, blank cells as "", with its images under `image_id`.

    Raises:
        DataError: if the file cannot be read or no column names the images.
    """
    try:
        frame = pd.read_csv(
            path,
            dtype=object,
            keep_default_na=False,
            encoding="utf-8-sig",
            encoding_errors="surrogateescape",
        )
    except (OSError, ValueError, EOFError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(
            f"{str(path)!r}: not a readable table ({error}); give a CSV file"
        ) from error
    found = {str(name).lower(): name for name in reversed(frame.columns)}
    key = next((found[name] for name in IDS if name in found), None)
    if key is None:
        raise DataError(
            f"{str(path)!r}: no column names the images; found {listing(frame.columns)}, "
            f"expected one of {', '.join(IDS)}"
        )
    return frame.rename(columns={key: "image_id"})


def read_list(path: Path) -> pd.DataFrame:
    """Return the images of one list: the columns `CORE`, then all others as text.

    An unknown label, patient or role is None.

    Raises:
        DataError: if the file cannot be read, or no column names the images.
    """
    frame = read_columns(path)
    role = next((name for name in ("role", "split") if name in frame), None)
    words = re.split(r"[^a-z]+", path.name.lower())
    named = next((ROLES_BY_NAME[word] for word in words if word in ROLES_BY_NAME), None)
    roles = frame[role] if role else pd.Series([named or ""] * len(frame), dtype=object)
    core = pd.DataFrame(
        {
            "image_id": frame["image_id"],
            "label": labels_of(frame),
            "patient_id": _patients(frame),
            "role": roles,
        },
        dtype=object,
    )
    others = frame[[name for name in frame.columns if name not in CORE]]
    core = core.where(core.notna() & (core != ""), None)
    return pd.concat([core, others], axis=1)


def read_lists(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the images of several lists; three without a role are train, val and test in order.

    Raises:
        DataError: if a list cannot be read, or if the role of its images is not known.
    """
    frames = [read_list(path) for path in paths]
    if len(frames) == 3 and all(frame["role"].isna().all() for frame in frames):
        for frame, role in zip(frames, ("train", "val", "test"), strict=True):
            frame["role"] = role
    for path, frame in zip(paths, frames, strict=True):
        roles = frame["role"].map(lambda role: ROLES_BY_NAME.get(str(role).strip().lower()))
        if frame["role"].isna().all():
            raise DataError(
                f"{str(path)!r}: no column 'role'; found {listing(frame.columns)}; add it, or name "
                "the file after its role, as in my-train.csv, my-valid.csv, my-test.csv"
            )
        if roles.isna().any():
            raise DataError(
                f"{str(path)!r}: row {int(roles.isna().argmax()) + 2}, column 'role' holds "
                f"{listing(frame.loc[roles.isna(), 'role'].unique())}; use train, val, calib, test"
            )
        frame["role"] = roles
    return pd.concat(frames, ignore_index=True)


def labels_of(frame: pd.DataFrame) -> pd.Series:
    """Return the label of each row, "" where there is none; see the head of this module."""
    column = next((name for name in LABELS if name in frame), None)
    if column is not None:
        return frame[column]
    flags = [name for name in frame if frame[name].isin(["0", "1", "0.0", "1.0"]).all()]
    ones = frame[flags].isin(["1", "1.0"])
    if len(flags) < 2 or not (ones.sum(axis=1) == 1).all():
        return pd.Series([""] * len(frame), dtype=object)
    return ones.idxmax(axis=1)


def _patients(frame: pd.DataFrame) -> pd.Series:
    if "patient_id" in frame:
        return frame["patient_id"]
    return frame["image_id"].str.extract(_PATIENT_FOLDER, expand=False)


def path_endings(name: str) -> list[str]:
    """Return the ends of a path, the whole first, without the suffix of an image file."""
    parts = name.split("/")
    parts[-1] = image_key(name)
    return ["/".join(parts[i:]) for i in range(len(parts))]


def image_key(name: str) -> str:
    """Return what two tables call the same image: the file name without folder and suffix."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return stem if dot and suffix.lower() in _SUFFIXES else stem + dot + suffix
