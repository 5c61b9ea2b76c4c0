"""Dermoscopy as its publishers ship it: ISIC 2020, ISIC 2019, the paper's union, HAM10000.

| layout    | table                              | classes                | grouped by      |
|-----------|------------------------------------|------------------------|-----------------|
| isic2020: | ISIC_2020_Training_GroundTruth.csv | melanoma, benign       | patient         |
|           | or train.csv (the challenge's)     |                        |                 |
| isic2019: | ISIC_2019_Training_GroundTruth.csv | its nine, less empty   | lesion          |
| isic:     | both                               | melanoma, benign       | patient, lesion |
| ham10000: | HAM10000_metadata.csv              | its seven              | lesion          |

The union takes melanomas from both years and benign lesions from 2020 only, as many as there are
melanomas (paper section 3.1). **So the year gives the label away**: `diffdx audit` says how far.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diffdx.data.dataset import Dataset, Record, listing
from diffdx.data.published import (
    BENIGN,
    MELANOMA,
    balance,
    find_table,
    flag,
    images_by_name,
    require_unique,
)
from diffdx.data.tables import Table, check_presence, parse_table
from diffdx.errors import DataError

TABLES_2020 = (
    "ISIC_2020_Training_GroundTruth_v2.csv",
    "ISIC_2020_Training_GroundTruth.csv",
    "train.csv",
)
TABLES_2019 = ("ISIC_2019_Training_GroundTruth.csv",)
METADATA_2019 = ("ISIC_2019_Training_Metadata.csv",)
TABLES_HAM10000 = ("HAM10000_metadata.csv", "HAM10000_metadata")
FOLDERS_2020 = (
    "train",
    "jpeg/train",
    "ISIC_2020_Training_JPEG/train",
    "ISIC_2020_Training_JPEG",
    "ISIC_2020_Training_Input",
    "images",
    "",
)
FOLDERS_2019 = (
    "ISIC_2019_Training_Input",
    "ISIC_2019_Training_Input/ISIC_2019_Training_Input",
    "images",
    "",
)
FOLDERS_HAM10000 = (
    "HAM10000_images_part_1",
    "HAM10000_images_part_2",
    "ham10000_images_part_1",
    "ham10000_images_part_2",
    "HAM10000_images",
    "images",
    "",
)
BY_LESION = "PATIENTS UNKNOWN: images are grouped by lesion; a patient's lesions may be divided."
_SAME_MEANING = {
    "age_approx": "age",
    "anatom_site_general": "site",
    "anatom_site_general_challenge": "site",
    "localization": "site",
    "dataset": "source",
}
"""Columns that each publisher names otherwise."""


def open_isic2020(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return ISIC 2020's training images: melanoma against benign, by patient.

    Raises:
        DataError: if the table is absent or another one, or no image exists.
    """
    records, warnings = _read_2020(root)
    return Dataset.of_files("isic2020", records, warnings)


def open_isic2019(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return ISIC 2019's training images in the publishers' classes, by lesion where it is known.

    Raises:
        DataError: as `open_isic2020`; also if a row has not exactly one diagnosis.
    """
    records, warnings = _read_2019(root)
    return Dataset.of_files("isic2019", records, [BY_LESION, *warnings])


def open_isic(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return the paper's union of both years; benign images beyond its balance are spare.

    Args:
        root: Folder that holds both years, mixed or in a folder each.
        options: `seed` of the draw.

    Raises:
        DataError: as the readers of the two years.
    """
    new, new_warnings = _read_2020(_home(root, TABLES_2020))
    old, old_warnings = _read_2019(_home(root, TABLES_2019))
    known = {record.image_id for record in new}
    melanomas = [
        replace(r, label=MELANOMA) for r in old if r.label == "MEL" and r.image_id not in known
    ]
    chosen, spare = balance([*new, *melanomas], seed=int(options.get("seed", 0)))
    return Dataset.of_files("isic", chosen, new_warnings + old_warnings, spare=spare)


def open_ham10000(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return HAM10000's images in its seven classes, by lesion.

    Raises:
        DataError: if the table is absent or another one, or no image exists.
    """
    table = _table(root, TABLES_HAM10000, "image_id", "dx", "lesion_id")
    images = images_by_name(root, FOLDERS_HAM10000)
    records = []
    for _, row in table.rows:
        path = _path(images, root, row["image_id"])
        lesion = row["lesion_id"] or None
        records.append(Record(row["image_id"], path, row["dx"], lesion, None, _metadata(row)))
    warnings = check_presence(table.path, records, "unpack the images beside the table")
    require_unique(table, records)
    return Dataset.of_files("ham10000", records, [BY_LESION, *warnings])


def _read_2020(root: Path) -> tuple[list[Record], list[str]]:
    table = _table(root, TABLES_2020, "image_name", "target")
    images = images_by_name(root, FOLDERS_2020)
    records = []
    for number, row in table.rows:
        label = MELANOMA if flag(table, number, "target", row["target"]) == 1 else BENIGN
        path = _path(images, root, row["image_name"])
        patient = row.get("patient_id") or None
        metadata = _metadata(row) | {"source": "ISIC 2020"}
        records.append(Record(row["image_name"], path, label, patient, None, metadata))
    warnings = check_presence(table.path, records, "unpack the images beside the table")
    require_unique(table, records)
    return records, warnings


def _read_2019(root: Path) -> tuple[list[Record], list[str]]:
    table = _table(root, TABLES_2019, "image", "MEL", "NV")
    diagnoses = [name for name in table.columns if name != "image"]
    images = images_by_name(root, FOLDERS_2019)
    described = find_table(root, METADATA_2019)
    rows = [] if described is None else parse_table(described).rows
    known = {row["image"]: row for _, row in rows if "image" in row}
    records = []
    for number, row in table.rows:
        labels = [name for name in diagnoses if flag(table, number, name, row[name]) == 1]
        if len(labels) != 1:
            raise DataError(
                f"{str(table.path)!r}: row {number} has {len(labels)} diagnoses "
                f"({listing(labels)}); one is needed"
            )
        path = _path(images, root, row["image"])
        facts = known.get(row["image"], {})
        metadata = _metadata(facts) | {"source": "ISIC 2019"}
        lesion = facts.get("lesion_id") or None
        records.append(Record(row["image"], path, labels[0], lesion, None, metadata))
    warnings = check_presence(table.path, records, "unpack the images beside the table")
    require_unique(table, records)
    return records, warnings


def _home(root: Path, names: tuple[str, ...]) -> Path:
    """Return the folder with one of these tables: the root or one directly below it."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return next((folder for folder in (root, *below) if find_table(folder, names)), root)


def _table(root: Path, names: tuple[str, ...], *columns: str) -> Table:
    path = find_table(root, names)
    if path is None:
        raise DataError(f"{str(root)!r}: none of {listing(names)} is there; give their folder")
    table = parse_table(path)
    table.require(*columns)
    return table


def _path(images: Mapping[str, str], root: Path, name: str) -> str:
    """Return where the image is, or where one would look for it."""
    return images.get(name, str(root / f"{name}.jpg"))


def _metadata(row: Mapping[str, str]) -> dict[str, str]:
    left_out = ("image", "image_id", "image_name", "patient_id", "target", "dx")
    return {_SAME_MEANING.get(k, k): value for k, value in row.items() if k not in left_out}
