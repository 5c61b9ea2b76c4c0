"""A set of images: records (image, label, patient, publisher's role) and where their pixels are.

A `Dataset` holds no pixels. It asks its source for them one record at a time, so it is cheap to
copy to data-loading workers, and a file that cannot be read fails alone.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diffdx._typing import Pixels
from diffdx.data.images import read_image
from diffdx.errors import ConfigError, DataError

# The abnormal class of the tasks this project knows, in lower case. It is never guessed otherwise.
KNOWN_POSITIVES = frozenset({"pneumonia", "melanoma", "pleural effusion"})
LISTED = 5


@dataclasses.dataclass(frozen=True)
class Record:
    """One image: where it is and what is known about it.

    Attributes:
        image_id: Unique within the dataset: the POSIX path below the dataset's root.
        path: The path as the user may open it.
        label: Class name; None where unknown.
        patient_id: None where unknown.
        role: The publisher's split, one of train, val, calib, test; None where there is none.
        metadata: What else is known, as text by column name: age, sex, site, lesion_id, ...
    """

    image_id: str
    path: str
    label: str | None = None
    patient_id: str | None = None
    role: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def caution(self) -> str | None:
        """Why an answer on this image should not be relied on, as far as its file says."""
        named = {"out_of_scope": "out of scope", "burned_in": "burned-in text"}
        known = [
            f"{name}: {self.metadata[key]}" for key, name in named.items() if key in self.metadata
        ]
        return "; ".join(known) or None


@runtime_checkable
class Source(Protocol):
    """Where the pixels of a record come from."""

    def pixels(self, record: Record) -> Pixels:
        """Return the stored pixels of the record."""

    def mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """Return where its lesion is, if that is known."""

    def stamp(self, record: Record) -> str:
        """Return what changes when the pixels do, without reading them: part of the fingerprint."""


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Pixels from image files.

    Attributes:
        frame: The frame read from files that hold several.
        refuse_burned_in: Fail on images that may show text, such as a patient's name.
    """

    frame: int | None = None
    refuse_burned_in: bool = False

    def pixels(self, record: Record) -> Pixels:
        """Return the pixels of the record's file; see `read_image`.

        Raises:
            DataError: as `read_image`; also if burned-in text is refused and cannot be ruled out.
        """
        burned_in = record.metadata.get("burned_in")
        if self.refuse_burned_in and burned_in:
            raise DataError(
                f"{record.path!r}: text may be burned into the image ({burned_in}); remove it, or "
                "leave out --refuse-burned-in"
            )
        return read_image(record.path, frame=self.frame)

    def mask(self, record: Record) -> None:
        """Return None: files carry no masks."""
        return None

    def stamp(self, record: Record) -> str:
        """Return the file's size in bytes."""
        try:
            return str(os.stat(record.path).st_size)
        except OSError:
            return "absent"


@dataclasses.dataclass(frozen=True)
class MemorySource:
    """Pixels from decoded images; the image id of a record is its position."""

    images: Sequence[Pixels] = dataclasses.field(repr=False)

    def pixels(self, record: Record) -> Pixels:
        """Return the image at the record's position."""
        return self.images[int(record.image_id)]

    def mask(self, record: Record) -> None:
        """Return None: no one has drawn a lesion."""
        return None

    def stamp(self, record: Record) -> str:
        """Return a hash of the pixels."""
        return hashlib.sha256(self.pixels(record).tobytes()).hexdigest()


@dataclasses.dataclass
class Dataset:
    """Images of one study, in a fixed order.

    Attributes:
        name: Short name for reports.
        records: The images.
        classes: Class names, sorted; empty where nothing is labelled.
        positive: The class that F1, PPV, NPV and AUROC mean; None if unknown or more than two
            classes.
        has_patients: Whether every record names its patient.
        warnings: What a reader of any result built on this dataset must know.
        source: Where the pixels come from.
        spare: Images that a rule left out, to balance the classes. A splits file may name them, so
            `select` finds them; nothing else does.
    """

    name: str
    records: list[Record]
    classes: tuple[str, ...]
    positive: str | None
    has_patients: bool
    warnings: list[str]
    source: Source
    spare: Sequence[Record] = ()

    @classmethod
    def of_files(
        cls,
        name: str,
        records: list[Record],
        warnings: list[str],
        *,
        spare: Sequence[Record] = (),
        positive: str | None = None,
        source: Source | None = None,
    ) -> "Dataset":
        """Return the dataset of these records; its classes are the labels that occur.

        Args:
            name: Short name for reports.
            records: The images.
            warnings: What a reader of results must know.
            spare: See the class.
            positive: The positive class, if the user names one.
            source: Where the pixels come from; by default, the records' files.

        Raises:
            ConfigError: if `positive` is no class of the data.
        """
        classes = tuple(sorted({record.label for record in records if record.label is not None}))
        return cls(
            name=name,
            records=records,
            classes=classes,
            positive=choose_positive(classes, positive),
            has_patients=all(record.patient_id is not None for record in records),
            warnings=warnings,
            source=source or FileSource(),
            spare=spare,
        )

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted image ids with their labels, patients, roles and file sizes.

        The place of the dataset does not enter: a copy elsewhere has the same fingerprint.
        """
        rows = sorted(
            [r.image_id, r.label or "", r.patient_id or "", r.role or "", self.source.stamp(r)]
            for r in self.records
        )
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def pixels(self, record: Record) -> Pixels:
        """Return the stored pixels of a record: (H, W) or (H, W, 3), uint8 or uint16.

        Raises:
            DataError: if the file is gone or cannot be used as an image; see `read_image`.
        """
        return self.source.pixels(record)

    def mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """Return where the lesion is, (H, W) bool, or None where no one has drawn it."""
        return self.source.mask(record)

    def subset(self, records: Sequence[Record]) -> "Dataset":
        """Return the dataset of these records only; classes and positive class stay as they are."""
        return dataclasses.replace(
            self, records=list(records), warnings=list(self.warnings), spare=()
        )

    def select(self, image_ids: Iterable[str]) -> "Dataset":
        """Return the dataset of the records with these ids, in the order given.

        Raises:
            DataError: if an id is not in the dataset: a split made for other data would be used.
        """
        by_id = {record.image_id: record for record in chain(self.spare, self.records)}
        wanted = list(image_ids)
        missing = [image_id for image_id in wanted if image_id not in by_id]
        if missing:
            raise DataError(
                f"{self.name}: {len(missing)} of {len(wanted)} image ids are not in the dataset "
                f"({listing(missing)}); use the splits file that was made for this data"
            )
        return self.subset([by_id[image_id] for image_id in wanted])

    def require_trainable(self) -> None:
        """Check that a classifier can be trained on the labels.

        Raises:
            DataError: if labels are missing (images are never dropped silently), or if there are
                fewer than two classes, or a class has fewer than two images.
        """
        blank = [record.image_id for record in self.records if record.label is None]
        if len(blank) == len(self.records):
            raise DataError(" ".join([f"{self.name}: no image has a label.", *self.warnings]))
        if blank:
            raise DataError(
                f"{self.name}: {len(blank)} images have a blank label ({listing(blank)}); "
                "fill the column label or remove the rows"
            )
        counts = Counter(record.label for record in self.records)
        if len(counts) < 2:
            raise DataError(f"{self.name}: only one class ({listing(counts)}); give two or more")
        scarce = [name for name, count in counts.items() if count < 2]
        if scarce:
            raise DataError(
                f"{self.name}: only one image of class {listing(scarce)}; add images or drop it"
            )

    def require_positive(self) -> str | None:
        """Return the positive class; None where more than two classes have none.

        Raises:
            ConfigError: if there are two classes and neither is known to be the positive one: a
                guess would silently exchange sensitivity and specificity.
        """
        if self.positive is None and len(self.classes) == 2:
            raise ConfigError(
                f"{self.name}: which of {self.classes[0]!r} and {self.classes[1]!r} is the "
                "positive class? Say so with --positive CLASS"
            )
        return self.positive


def choose_positive(classes: Sequence[str], positive: str | None) -> str | None:
    """Return the positive class: the one asked for, else the one known by name of two, else None.

    Raises:
        ConfigError: if the class asked for does not exist, since its metrics would be empty.
    """
    if positive is None:
        known = [name for name in classes if name.lower() in KNOWN_POSITIVES]
        return known[0] if len(classes) == 2 and len(known) == 1 else None
    if positive not in classes:
        raise ConfigError(
            f"--positive {positive!r} is no class of the data; choose one of {', '.join(classes)}"
        )
    return positive


def listing(names: Iterable[object]) -> str:
    """Return the first few names for an error message, quoted, with a count of the rest."""
    shown = [repr(name) for name in names]
    rest = len(shown) - LISTED
    return ", ".join(shown[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
