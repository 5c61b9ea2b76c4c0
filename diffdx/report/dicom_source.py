"""The study that DICOM results go into: what they take from the image they are about.

A result has the patient and study tags of its source, so that an archive files the two together, a
series of its own, and UIDs derived from the source and from what is said of it: the same result
made twice is one object. Nothing else of the source is read. Identifiers go from the source into
the object and nowhere else: libraries that quote values in warnings and log lines are silenced
meanwhile, and an error names a file and a kind of error only.
"""

import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from diffdx._files import atomic_path
from diffdx.errors import DataError

SOFTWARE = "diffdx"
UTF_8 = "ISO_IR 192"

_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_REFERENCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
_IMAGE = ("PatientOrientation", "BurnedInAnnotation", "BodyPartExamined", "Laterality")
# Type 2: must be there, may be empty.
_NEVER_ABSENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@contextmanager
def identifiers_kept(what: Path) -> Iterator[None]:
    """Let no identifier out while the block handles one: no warning, no log line, no error text.

    Args:
        what: The file at work, which errors name.

    Raises:
        DataError: in place of whatever a library raises, since its text may quote the file.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # the level holds for their children too
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except (DataError, OSError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise DataError(
            f"{str(what)!r}: no DICOM result can be made of it ({kind}); check the file"
        ) from None
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def read_source(path: Path) -> Dataset:
    """Return the tags that results take from a DICOM image: patient, study, its own UIDs.

    Raises:
        DataError: if the file cannot be read, or does not say which study it belongs to.
    """
    with identifiers_kept(path):
        wanted = [*_PATIENT_AND_STUDY, *_REFERENCE, *_IMAGE, "SpecificCharacterSet"]
        source = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*wanted])
        source.decode()
        missing = [name for name in ("StudyInstanceUID", *_REFERENCE) if not source.get(name)]
    if missing:
        raise DataError(
            f"{str(path)!r}: has no {missing[0]}, so a result could not be filed beside it; "
            "export the image again"
        )
    return source


def without_patient(source: Dataset) -> Dataset:
    """Return the source's UIDs with blank patient and study tags: what libraries are shown."""
    blank = Dataset()
    for name in _NEVER_ABSENT:
        setattr(blank, name, "")
    for name in ("StudyInstanceUID", *_REFERENCE):
        setattr(blank, name, source.get(name))
    return blank


def file_beside(result: Dataset, source: Dataset) -> None:
    """Give a result the patient and study tags of its source, in UTF-8."""
    result.SpecificCharacterSet = UTF_8
    for name in _PATIENT_AND_STUDY:
        value = source.get(name)
        if value is not None:
            many = isinstance(value, MultiValue)
            setattr(result, name, [str(one) for one in value] if many else str(value))
        elif name in _NEVER_ABSENT:
            setattr(result, name, "")
        elif name in result:
            delattr(result, name)


def derived_uid(source: Dataset, *said: object) -> str:
    """Return the UID of what is said of a source: the same for the same, in DICOM's UUID form."""
    text = "\n".join([str(source.SOPInstanceUID), *map(str, said)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def equipment(model_sha256: str) -> dict[str, Any]:
    """Return what an object says of the software that made it, as highdicom names it."""
    return {
        "manufacturer": SOFTWARE,
        "manufacturer_model_name": SOFTWARE,
        "software_versions": version(SOFTWARE),
        "device_serial_number": model_sha256,
    }


def write_object(path: Path, result: Dataset) -> None:
    """Write a DICOM object as a file, in one piece.

    Raises:
        DataError: if it cannot be written.
    """
    with identifiers_kept(path), atomic_path(path) as temporary:
        result.save_as(temporary, enforce_file_format=True)
