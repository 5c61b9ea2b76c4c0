"""CheXpert as its publishers ship it, under the paper's rule.

The first frontal view of a patient's first study, with Pleural Effusion or No Finding but not both;
a blank label is 0. What an uncertain label (-1) means must be said: drop (the paper), zero or one.
Both classes are brought to the same size, then 80 / 10 / 10 % become train, val and test. A patient
has one such image, so that the sets are disjoint by patient. (Paper section 3.1, appendix B.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffdx.data.dataset import Dataset, Record
from diffdx.data.published import (
    EFFUSION,
    NO_FINDING,
    balance,
    chexpert_id,
    chexpert_patient,
    find_table,
    flag,
)
from diffdx.data.tables import Table, check_presence, parse_table
from diffdx.errors import DataError

VIEW = "study1/view1_frontal.jpg"
HELD_OUT_SHARE = 0.1
"""Of all images, for val and again for test."""
_ROOTS = ("", "CheXpert-v1.0-small", "CheXpert-v1.0")
_METADATA = {"Sex": "sex", "Age": "age", "AP/PA": "view"}


def open_chexpert(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return the images that the paper's rule selects, with roles; the others of the rule as spare.

    Args:
        root: Folder that holds train.csv, or the folder above it; small and full names.
        options: `uncertain` (drop, zero, one), needed where -1 occurs; `seed` of the draw.

    Raises:
        DataError: if train.csv is absent or another table, no image exists, or uncertain labels
            occur and no policy is chosen: a default would silently decide what they mean.
    """
    base = next((root / name for name in _ROOTS if find_table(root / name, ["train.csv"])), None)
    if base is None:
        raise DataError(
            f"{str(root)!r}: no train.csv; give the folder that holds CheXpert's train.csv and "
            "train folder"
        )
    path = find_table(base, ["train.csv"]) or base
    table = parse_table(path, keep=lambda row: row.get("Path", VIEW).endswith(VIEW))
    table.require("Path", EFFUSION, NO_FINDING)
    images = _Images(base)
    records = [
        Record(
            image_id=chexpert_id(row["Path"]),
            path=images.path(row["Path"]),
            label=label,
            patient_id=chexpert_patient(row["Path"]),
            metadata={new: row[old] for old, new in _METADATA.items() if old in row},
        )
        for row, label in _labelled(table, options.get("uncertain"))
    ]
    if not records:
        raise DataError(f"{str(path)!r}: no row fits the rule ({VIEW}, one of the two findings)")
    warnings = check_presence(path, records, "unpack the images beside train.csv")
    seed = int(options.get("seed", 0))
    chosen, spare = balance(records, seed=seed)
    return Dataset.of_files("chexpert", _with_roles(chosen, seed), warnings, spare=spare)


def _labelled(table: Table, uncertain: str | None) -> list[tuple[dict[str, str], str]]:
    """Return the rows that have exactly one of the two findings, with its name."""
    value_of = {"zero": 0, "one": 1}
    kept, unclear = [], 0
    for number, row in table.rows:
        flags = [flag(table, number, name, row[name]) for name in (EFFUSION, NO_FINDING)]
        if -1 in flags:
            unclear += 1
            if uncertain not in value_of:
                continue
            flags = [value_of[uncertain] if value == -1 else value for value in flags]
        if sum(flags) == 1:
            kept.append((row, EFFUSION if flags[0] else NO_FINDING))
    if unclear and uncertain is None:
        raise DataError(
            f"{str(table.path)!r}: {unclear} images have an uncertain label (-1) in {EFFUSION!r} "
            f"or {NO_FINDING!r}; choose --uncertain drop (as the paper does), zero or one, or "
            "write it after the folder: chexpert:ROOT?uncertain=drop"
        )
    return kept


def _with_roles(records: Sequence[Record], seed: int) -> list[Record]:
    held_out = int(HELD_OUT_SHARE * len(records))
    roles = ["val"] * held_out + ["test"] * held_out
    roles += ["train"] * (len(records) - len(roles))
    drawn = np.random.default_rng([seed, 1]).permutation(roles).tolist()
    return [replace(record, role=role) for record, role in zip(records, drawn, strict=True)]


class _Images:
    """Finds images below train/, or in the full archive's batch folders, which hold patients."""

    def __init__(self, base: Path) -> None:
        batches = sorted(path for path in base.glob("CheXpert-v1.0 batch*") if path.is_dir())
        self._patients = {entry.name: entry for batch in batches for entry in batch.iterdir()}
        self._base = base

    def path(self, listed: str) -> str:
        """Return where the image is, or would be."""
        inside = chexpert_id(listed)
        folder = self._patients.get(chexpert_patient(listed) or "")
        if folder is None:
            return str(self._base / inside)
        return str(folder / inside.partition(f"{folder.name}/")[2])
