"""What is audited: a row per image with label, patient, role and metadata, with pixels or without.

Tables alone are enough for most questions, so a `Subject` is made from a dataset and its splits or
from published lists and, where there is one, a table of metadata.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from diffdx.data.dataset import Dataset
from diffdx.data.lists import CORE, image_key, read_columns, read_lists
from diffdx.errors import DataError


@dataclass(frozen=True)
class Subject:
    """Images to be audited.

    Attributes:
        name: Short name for the report.
        frame: Columns image_id, label, patient_id, role; None where unknown.
        metadata: Everything else that is known, as text in the order of `frame`; "" where blank.
        members: Whether each image is listed in a table of another name.
        fingerprint: Of the data.
        dataset: Where the pixels are; None for tables alone.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    metadata: pd.DataFrame = field(repr=False)
    fingerprint: str
    members: dict[str, Bool[np.ndarray, "n"]] = field(default_factory=dict, repr=False)
    dataset: Dataset | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    def in_role(self, role: str) -> Bool[np.ndarray, "n"]:
        """Return which images have this role."""
        return (self.frame["role"] == role).to_numpy(dtype=bool)

    def select(self, rows: Shaped[np.ndarray, "m"]) -> "Subject":
        """Return these rows, by positions or a mask, without pixels."""
        return replace(
            self,
            frame=self.frame.iloc[rows].reset_index(drop=True),
            metadata=self.metadata.iloc[rows].reset_index(drop=True),
            members={name: is_in[rows] for name, is_in in self.members.items()},
            dataset=None,
        )

    @property
    def columns(self) -> list[str]:
        """Names of the metadata."""
        return [str(name) for name in self.metadata]

    @property
    def units(self) -> Int[np.ndarray, "n"]:
        """The patient of each image as a number; an image without one is a patient of its own."""
        patients = self.frame["patient_id"].to_numpy(dtype=object)
        unknown = self.frame["patient_id"].isna().to_numpy()
        names = [(u, i if u else p) for i, (p, u) in enumerate(zip(patients, unknown, strict=True))]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names], dtype=np.int64)


def subject_of_dataset(
    dataset: Dataset, splits: pd.DataFrame, table: Path | None = None
) -> Subject:
    """Return a dataset in these splits, with the columns of a metadata table where one is given.

    Raises:
        DataError: if the splits list images that the dataset lacks, or the table cannot be used.
    """
    records = dataset.select(splits["image_id"]).records
    frame = splits[list(CORE)].reset_index(drop=True)
    metadata = pd.DataFrame([dict(r.metadata) for r in records], index=frame.index, dtype=object)
    subject = Subject(
        name=dataset.name,
        frame=frame,
        metadata=metadata.fillna("").astype(str),
        fingerprint=dataset.fingerprint,
        dataset=dataset.subset(records),
    )
    return subject if table is None else _joined(subject, table)


def subject_of_lists(paths: Sequence[Path], table: Path | None = None) -> Subject:
    """Return published lists, joined with a metadata table by image name; see `data.lists`.

    Raises:
        DataError: if a file cannot be used, or the table has none of the images.
    """
    lists = read_lists(paths)
    frame = lists[list(CORE)]
    subject = Subject(
        name=", ".join(path.name for path in paths),
        frame=frame,
        metadata=lists.drop(columns=list(CORE)).fillna("").astype(str),
        fingerprint=hashlib.sha256(json.dumps(frame.to_numpy().tolist()).encode()).hexdigest(),
    )
    return subject if table is None else _joined(subject, table)


def _joined(subject: Subject, path: Path) -> Subject:
    """Return the subject with what the table says about its images, and who is in it at all."""
    table = read_columns(path)
    table.index = pd.Index(table["image_id"].map(image_key))
    table = table[~table.index.duplicated()].drop(columns="image_id")
    keys = subject.frame["image_id"].map(image_key)
    is_member = keys.isin(table.index).to_numpy(dtype=bool)
    if not is_member.any():
        raise DataError(
            f"{str(path)!r}: lists none of the {len(subject)} images, such as "
            f"{subject.frame['image_id'].iloc[0]!r}; give the table that was made for them"
        )
    found = table.reindex(keys).fillna("").astype(str)
    found.index = subject.frame.index
    frame = subject.frame.copy()
    if "patient_id" in found:
        told = found["patient_id"].where(found["patient_id"] != "", None).astype(object)
        frame["patient_id"] = frame["patient_id"].where(frame["patient_id"].notna(), told)
    found = found.drop(columns=[name for name in found if name in (*CORE, *subject.metadata)])
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return replace(
        subject,
        frame=frame,
        metadata=pd.concat([subject.metadata, found], axis=1),
        members={name: is_member},
    )
