"""What publishers' folders have in common: a table, images by name, classes to be balanced."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from diffdx.data.dataset import Record
from diffdx.data.tables import Table
from diffdx.errors import DataError

BALANCED_WITHIN = 0.01
"""Classes whose sizes differ by less are left as they are: the paper's own lists do by .0002."""
EFFUSION, NO_FINDING = "Pleural Effusion", "No Finding"
MELANOMA, BENIGN = "melanoma", "benign"
_PATIENT = re.compile(r"patient\d+")


def find_table(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files in the folder, packed with gzip or not; None if absent."""
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def images_by_name(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """Return the files of those of the folders that exist, by their name without its suffix."""
    found: dict[str, str] = {}
    for folder in folders:
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if not entry.name.startswith(".") and not entry.is_dir():
                        found.setdefault(os.path.splitext(entry.name)[0], entry.path)
    return found


def balance(records: Sequence[Record], *, seed: int) -> tuple[list[Record], list[Record]]:
    """Return as many images of each class as the rarest has, drawn at random, and the others.

    Both keep the order given. Classes of nearly equal size are left as they are.
    """
    by_label: dict[str | None, list[str]] = defaultdict(list)
    for record in records:
        by_label[record.label].append(record.image_id)
    size = min(map(len, by_label.values()), default=0)
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for _, ids in sorted(by_label.items(), key=lambda item: str(item[0])):
        if len(ids) - size < BALANCED_WITHIN * size:
            chosen.update(ids)
        else:
            chosen.update(rng.permutation(sorted(ids))[:size].tolist())
    kept = [record for record in records if record.image_id in chosen]
    return kept, [record for record in records if record.image_id not in chosen]


def require_unique(table: Table, records: Sequence[Record]) -> None:
    """Check that no image is listed twice; the records are those of the table's rows, in order.

    Raises:
        DataError: naming the second row, since the two could disagree.
    """
    seen: set[str] = set()
    for (number, _), record in zip(table.rows, records, strict=True):
        if record.image_id in seen:
            raise DataError(
                f"{str(table.path)!r}: row {number} lists {record.image_id!r} again; keep one row"
            )
        seen.add(record.image_id)


def chexpert_id(path: str) -> str:
    """Return the image id of a path in CheXpert's tables and in the paper's lists.

    The first folder, which names the archive, is left out: the small and the full archive hold the
    same images. Other paths are returned as they are.
    """
    return path.partition("/")[2] if path.startswith("CheXpert") else path


def chexpert_patient(path: str) -> str | None:
    """Return the patient that a CheXpert path names."""
    found = _PATIENT.search(path)
    return found[0] if found else None


def flag(table: Table, number: int, column: str, text: str) -> int:
    """Return a published label cell: blank is 0, otherwise -1, 0 or 1.

    Raises:
        DataError: naming row and column, if it is anything else.
    """
    try:
        value = float(text or 0)
    except ValueError:
        value = 2.0
    if value not in (-1, 0, 1):
        raise DataError(
            f"{str(table.path)!r}: row {number}, column {column!r} holds {text!r}; "
            "expected 1, 0, -1 or blank"
        )
    return int(value)
