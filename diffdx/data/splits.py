"""Who is trained on and who is tested on: four roles, divided by patient.

`train` fits the model, `val` chooses among models and rules, `calib` fits weights, probabilities
and sets, `test` is looked at once. The publishers' test and validation images keep their role. Of
the others

    val 10 %, calib 20 %, train the rest           where the publishers give a test set
    val 10 %, calib 15 %, test 15 %, train the rest    where they do not

less the roles that the publishers fill. All images of a patient go to one role.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from diffdx._files import atomic_path
from diffdx.data.dataset import Dataset, Record, listing
from diffdx.data.lists import path_endings, read_lists
from diffdx.errors import DataError

ROLES = ("train", "val", "calib", "test")
COLUMNS = ("image_id", "path", "label", "patient_id", "role")
NO_PATIENTS = (
    "NO PATIENT COLUMN: the split is by image. If patients have several images, the same patient "
    "is in training and test, and every result is too good. Add a patient_id column to the table."
)
_SHARES_WITH_TEST = {"val": 0.10, "calib": 0.20}
_SHARES_WITHOUT_TEST = {"val": 0.10, "calib": 0.15, "test": 0.15}


def make_splits(dataset: Dataset, *, seed: int = 0) -> pd.DataFrame:
    """Return the role of every image, one row each in the dataset's order.

    Patients are taken in random order, one class after the other; each goes to the role that is
    furthest behind its share of that class's images. A patient with several labels counts for the
    most frequent one. Overlap of patients between the publishers' own sets is left as it is:
    `check_splits` refuses it.

    Args:
        dataset: Labelled images; without patients a warning is added to its `warnings`.
        seed: Seed of the order.

    Returns:
        Columns image_id, path, label, patient_id, role.

    Raises:
        DataError: if the labels cannot be trained on, nothing is left to train on, or a class has
            fewer patients than there are roles to fill, so that some role would lack it.
    """
    dataset.require_trainable()
    if not dataset.has_patients and NO_PATIENTS not in dataset.warnings:
        dataset.warnings.append(NO_PATIENTS)
    role_of = {r.image_id: r.role for r in dataset.records if r.role not in (None, "train")}
    published = set(role_of.values())
    shares = dict(_SHARES_WITH_TEST if "test" in published else _SHARES_WITHOUT_TEST)
    shares = {role: share for role, share in shares.items() if role not in published}
    shares = {"train": 1.0 - sum(shares.values()), **shares}

    rest = [record for record in dataset.records if record.image_id not in role_of]
    if not rest:
        raise DataError(f"{dataset.name}: no image is left for training; add a train set")
    rng = np.random.default_rng(seed)
    for label, units in sorted(_units_by_label(rest).items()):
        if len(units) < len(shares):
            raise DataError(
                f"{dataset.name}: class {label!r} has {len(units)} patients or images to divide, "
                f"fewer than the {len(shares)} roles {', '.join(shares)}; add images"
            )
        role_of.update(_deal([units[i] for i in rng.permutation(len(units))], shares))
    rows = [
        (r.image_id, r.path, r.label, r.patient_id, role_of[r.image_id]) for r in dataset.records
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def check_splits(splits: pd.DataFrame, *, allow_leak: bool = False) -> list[str]:
    """Return warnings about a split: no patients known, or a leak that is allowed.

    Args:
        splits: As `make_splits` or `load_splits` return it.
        allow_leak: Turn the refusal of a leak into a warning for every report.

    Raises:
        DataError: if a patient is in two roles: a model that has seen the patient is not tested on
            them.
    """
    known = splits.dropna(subset=["patient_id"])
    warnings = [] if len(known) else [NO_PATIENTS]
    roles = known.groupby("patient_id")["role"].nunique()
    shared = sorted(roles.index[roles > 1])
    if shared:
        pairs = known[known["patient_id"].isin(shared)].groupby("patient_id")["role"]
        kinds = Counter(" and ".join(r for r in ROLES if r in set(of)) for _, of in pairs)
        message = (
            f"{len(shared)} patients are in more than one role "
            f"({', '.join(f'{count} in {pair}' for pair, count in sorted(kinds.items()))}), "
            f"such as {', '.join(short_hash(patient) for patient in shared[:3])} (hashed)"
        )
        if not allow_leak:
            raise DataError(
                f"column 'patient_id': {message}; give each patient one role, or use --allow-leak, "
                "which is written into every report"
            )
        warnings.append(f"PATIENT LEAK allowed: {message}. Results are too good.")
    return warnings


def align_splits(splits: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Return loaded splits with the dataset's own ids, paths, labels and patients.

    An image is found by its id or, in published lists, by the end of its path: folders before it
    and the suffix of the file do not matter. A patient named only in the splits file is kept.
    Images of the dataset that the file does not list are in no role.

    Raises:
        DataError: if the file lists images that the dataset does not have.
    """
    records = dataset.select(_own_ids(splits["image_id"], dataset)).records
    named = splits["patient_id"] if "patient_id" in splits else [None] * len(splits)
    rows = [
        (r.image_id, r.path, r.label, r.patient_id or patient, role)
        for r, patient, role in zip(records, named, splits["role"], strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _own_ids(listed: Iterable[str], dataset: Dataset) -> list[str]:
    """Return the dataset's ids of listed images; a name that fits none or several is kept."""
    names = list(listed)
    known = [record.image_id for record in chain(dataset.records, dataset.spare)]
    if set(names) <= set(known):
        return names
    by_ending: dict[str, str | None] = {}
    for image_id in known:
        for ending in path_endings(image_id):
            by_ending[ending] = None if ending in by_ending else image_id
    return [
        next(filter(None, (by_ending.get(ending) for ending in path_endings(name))), name)
        for name in names
    ]


def save_splits(splits: pd.DataFrame, path: Path) -> None:
    """Write a split as CSV, whole or not at all."""
    with atomic_path(path) as temporary:
        # File names need not be valid Unicode; their bytes are kept.
        splits[[name for name in COLUMNS if name != "path"]].to_csv(
            temporary, index=False, encoding="utf-8", errors="surrogateescape", lineterminator="\n"
        )


def load_splits(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Return a split from one file or several: a run's splits.csv, or lists as they are published.

    Blank labels and patients are None; see `data.lists` for what a list may look like.

    Raises:
        DataError: if a file cannot be read, names no images or no role, or an image is listed
            twice (its roles could disagree).
    """
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    splits = read_lists(files)
    repeated = splits.loc[splits["image_id"].duplicated(), "image_id"]
    if len(repeated):
        raise DataError(
            f"{listing(map(str, files))}: column 'image_id' lists {listing(repeated)} twice; "
            "keep one row per image"
        )
    frame = splits.reindex(columns=list(COLUMNS)).astype(object)
    return frame.where(frame.notna(), None)


def _units_by_label(records: Iterable[Record]) -> dict[str, list[list[Record]]]:
    """Group records by patient (an unknown one is one image), and patients by their main label."""
    patients: dict[tuple[bool, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.image_id):
        known = record.patient_id is not None
        patients[known, record.patient_id or record.image_id].append(record)
    units: dict[str, list[list[Record]]] = defaultdict(list)
    for _, images in sorted(patients.items()):
        counts = Counter(str(record.label) for record in images)
        units[min(counts, key=lambda label: (-counts[label], label))].append(images)
    return units


def _deal(units: Sequence[Sequence[Record]], shares: dict[str, float]) -> dict[str, str]:
    """Give each unit, in order, to the role that is furthest behind its share."""
    role_of, dealt = {}, dict.fromkeys(shares, 0)
    for unit in units:
        role = min(shares, key=lambda role: dealt[role] / shares[role])
        dealt[role] += len(unit)
        role_of.update({record.image_id: role for record in unit})
    return role_of


def short_hash(patient_id: str) -> str:
    """Return what stands for a patient's name wherever it would be seen."""
    return hashlib.sha256(patient_id.encode(errors="surrogateescape")).hexdigest()[:8]
