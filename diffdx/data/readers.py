"""From what the user names to a `Dataset`: folders, tables, single files, built-in phantoms.

| DATA                                   | labels             | patients, split               |
|----------------------------------------|--------------------|-------------------------------|
| folder with metadata.csv; a .csv alone | column `label`     | columns `patient_id`, `split` |
| folder of class folders                | folder names       | none                          |
| train/ val/ test/ of class folders     | inner folder names | split by outer folder         |
| folder of files; one file              | none               | none                          |
| NAME:ROOT, a set of `data.layouts`     | the publishers'    | the publishers' or the rule's |

Files are taken whatever their name is: whether one is an image is decided on reading. Hidden files
are left out. DICOM files are asked for what they say of themselves; see `data.dicom_records`.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from diffdx.data.dataset import Dataset, FileSource, Record, choose_positive, listing
from diffdx.data.dicom_records import add_dicom_facts
from diffdx.data.layouts import LAYOUTS, open_layout
from diffdx.data.tables import ROLES_BY_NAME, read_table
from diffdx.errors import ConfigError, DataError

TABLE_NAME = "metadata.csv"
# Two letters at least, so that a Windows drive is no layout name.
_LAYOUT = re.compile(r"([A-Za-z][A-Za-z0-9_]+):(.*)", re.DOTALL)


def open_dataset(
    spec: str | Path,
    *,
    positive: str | None = None,
    frame: int | None = None,
    uncertain: str | None = None,
    refuse_burned_in: bool = False,
    with_identifiers: bool = False,
) -> Dataset:
    """Return the dataset that `spec` names, by the table at the head of this module.

    Args:
        spec: A path, or NAME:ROOT for a known layout.
        positive: The class that F1 and AUROC mean; needed for two classes of unknown names.
        frame: Which frame to read of files that hold several, from 0.
        uncertain: What CheXpert's uncertain labels become: drop, zero or one.
        refuse_burned_in: Fail on DICOM images that may show text, such as a patient's name.
        with_identifiers: Keep the patients' own IDs of DICOM images, not hashes of them.

    Raises:
        DataError: if nothing is there, a class folder is empty, or the table is faulty.
        ConfigError: if `positive` is no class of the data, or `uncertain` is given for data that
            has no uncertain labels.
    """
    layout = _LAYOUT.fullmatch(str(spec))
    if layout and not os.path.lexists(spec):
        if layout[1].lower() not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise DataError(f"{str(spec)!r}: unknown layout {layout[1]!r}; known: {known}")
        dataset = open_layout(layout[1].lower(), layout[2], uncertain=uncertain)
        dataset.positive = choose_positive(dataset.classes, positive) or dataset.positive
        if isinstance(dataset.source, FileSource):
            dataset.records, facts = add_dicom_facts(dataset.records, identifiers=with_identifiers)
            dataset.warnings += facts
            dataset.source = FileSource(frame, refuse_burned_in)
        return dataset
    if uncertain is not None:
        raise ConfigError(
            f"{str(spec)!r}: uncertain={uncertain!r}, but only CheXpert, read as chexpert:ROOT, "
            "has uncertain labels; leave it out"
        )
    path = Path(spec)
    if path.is_dir():
        records, warnings = _read_folder(path)
    elif path.suffix.lower() == ".csv":
        records, warnings = read_table(path)
    elif os.path.lexists(path):
        records, warnings = [Record(image_id=path.name, path=str(path))], []
    else:
        raise DataError(f"{str(spec)!r}: no such file or folder; check the path")
    records, facts = add_dicom_facts(records, identifiers=with_identifiers)
    return Dataset.of_files(
        path.stem if path.is_file() else path.resolve().name,
        records,
        warnings + facts,
        positive=positive,
        source=FileSource(frame, refuse_burned_in),
    )


def open_inputs(
    inputs: Sequence[str | Path],
    *,
    positive: str | None = None,
    frame: int | None = None,
    uncertain: str | None = None,
    refuse_burned_in: bool = False,
    with_identifiers: bool = False,
) -> Dataset:
    """Return one dataset of everything that is named, each file once.

    With one input, image ids are those of `open_dataset`; with several, an image's id is its path
    as given, since two folders may hold files of the same name.

    Raises:
        ConfigError: if nothing is named, or phantoms are mixed with files.
        DataError: as `open_dataset` does.
    """
    if not inputs:
        raise ConfigError("no input: name at least one image, folder or table")
    datasets = [
        open_dataset(
            spec,
            frame=frame,
            uncertain=uncertain,
            refuse_burned_in=refuse_burned_in,
            with_identifiers=with_identifiers,
        )
        for spec in inputs
    ]
    if len(datasets) == 1:
        dataset = datasets[0]
        dataset.positive = choose_positive(dataset.classes, positive) or dataset.positive
        return dataset
    if not all(isinstance(dataset.source, FileSource) for dataset in datasets):
        raise ConfigError(
            "phantoms and MedMNIST cannot be mixed with other inputs; give them alone"
        )
    by_path: dict[str, Record] = {}
    for record in (record for dataset in datasets for record in dataset.records):
        image_id = Path(record.path).as_posix()
        entry = dataclasses.replace(record, image_id=image_id)
        by_path.setdefault(os.path.abspath(record.path), entry)
    warnings = [warning for dataset in datasets for warning in dataset.warnings]
    repeats = sum(map(len, datasets)) - len(by_path)
    if repeats:
        warnings.append(f"{repeats} files were named more than once: each is read once.")
    return Dataset.of_files(
        f"{len(inputs)} inputs",
        list(by_path.values()),
        warnings,
        positive=positive,
        source=FileSource(frame, refuse_burned_in),
    )


def _read_folder(root: Path) -> tuple[list[Record], list[str]]:
    if (root / TABLE_NAME).is_file():
        return read_table(root / TABLE_NAME)
    folders, files = _entries(root)
    if not folders:
        if not files:
            raise DataError(f"{str(root)!r}: the folder is empty; give one that holds images")
        return [Record(image_id=file.name, path=str(file)) for file in files], []
    if {"train", "test"} & {folder.name.lower() for folder in folders}:
        records = _read_roles(root, folders)
    else:
        records = [record for folder in folders for record in _read_class(root, folder, None)]
    warnings = []
    if files:
        names = listing(file.name for file in files)
        warnings.append(f"{root.name}: {len(files)} files outside the class folders: {names}.")
    return records, warnings


def _read_roles(root: Path, folders: list[Path]) -> list[Record]:
    records = []
    for folder in folders:
        role = ROLES_BY_NAME.get(folder.name.lower())
        if role is None:
            raise DataError(
                f"{str(folder)!r}: stands beside a train or test folder but is none of train, val, "
                "calib, test; move it away or rename it"
            )
        class_folders, _ = _entries(folder)
        if not class_folders:
            raise DataError(
                f"{str(folder)!r}: holds no class folders; sort its images into one folder per "
                f"class, or write {str(root / TABLE_NAME)!r} with columns path and label"
            )
        for class_folder in class_folders:
            records.extend(_read_class(root, class_folder, role))
    return records


def _read_class(root: Path, folder: Path, role: str | None) -> list[Record]:
    # Links to folders are not followed inside a class: a loop of them would never end.
    paths = [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    ]
    if not paths:
        raise DataError(f"{str(folder)!r}: the class folder is empty; add images or remove it")
    return [
        Record(path.relative_to(root).as_posix(), str(path), folder.name, role=role)
        for path in sorted(paths)
    ]


def _entries(root: Path) -> tuple[list[Path], list[Path]]:
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in visible if entry.is_dir()]
    return folders, [entry for entry in visible if not entry.is_dir()]
