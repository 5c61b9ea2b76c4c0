"""What DICOM files say of themselves, before any pixel is read: added to the records of a dataset.

Patients become hashes, so that no identifier enters a record unless that is asked for. A salt makes
the hashes useless to those who do not have it: set DIFFDX_SALT. A table's own entries win over the
files'. Objects that are no images (reports, PDFs, directories) are counted and left out; damaged
files stay and fail when they are read.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from diffdx.data.dataset import Record
from diffdx.data.dicom import describe_dicom, has_program, is_dicom, read_head
from diffdx.errors import DataError


def add_dicom_facts(
    records: Sequence[Record], *, identifiers: bool = False
) -> tuple[list[Record], list[str]]:
    """Return the records that may be images, with what DICOM files say of them, and warnings.

    A DICOM record has its patient's hash as `patient_id`, and as metadata what is known of its
    modality, view, body_part, sex, age, study (hash), burned_in (text may be visible) and
    out_of_scope (why a classifier of frontal radiographs or photographs should not be asked).

    Args:
        records: Of files of any kind.
        identifiers: Give patients' own IDs in place of their hashes.

    Raises:
        DataError: if DICOM files are there but nothing that could be an image.
        ConfigError: if there are DICOM files and the extra `dicom` is not installed.
    """
    kept: list[Record] = []
    skipped: Counter[str] = Counter()
    instances: Counter[str] = Counter()
    programs = 0
    for record in records:
        head = read_head(record.path)
        if not is_dicom(head):
            kept.append(record)
            continue
        programs += has_program(head)
        try:
            said = describe_dicom(record.path, identifiers=identifiers)
        except DataError:
            kept.append(record)
            continue
        if said["other"]:
            skipped[said["other"]] += 1
            continue
        instances[said["instance"]] += said["instance"] is not None
        facts = dict(said["facts"]) | ({"study": said["study"]} if said["study"] else {})
        patient = record.patient_id or said["patient"]
        metadata = {**facts, **record.metadata}
        kept.append(dataclasses.replace(record, patient_id=patient, metadata=metadata))
    if records and not kept:
        raise DataError(f"no image among {len(records)} DICOM files ({_counted(skipped)})")
    warnings = _warnings(kept, skipped, instances, programs)
    if identifiers and instances:
        warnings.append(
            "patient_id holds patients' own IDs (--with-identifiers): guard what is written here "
            "as the images themselves."
        )
    return kept, warnings


def _warnings(
    kept: Sequence[Record], skipped: Counter[str], instances: Counter[str], programs: int
) -> list[str]:
    warnings = []
    if skipped:
        warnings.append(
            f"{skipped.total()} DICOM files are not an image and were skipped: {_counted(skipped)}."
        )
    scope = Counter(r.metadata["out_of_scope"] for r in kept if "out_of_scope" in r.metadata)
    if scope:
        warnings.append(
            f"OUT OF SCOPE of models for frontal radiographs or photographs: {scope.total()} DICOM "
            f"images ({_counted(scope)})."
        )
    burned_in = Counter(r.metadata["burned_in"] for r in kept if "burned_in" in r.metadata)
    if burned_in:
        warnings.append(
            f"{burned_in.total()} DICOM images may show burned-in text ({_counted(burned_in)}); "
            "--refuse-burned-in leaves them out."
        )
    repeated = sum(count - 1 for count in instances.values() if count > 1)
    if repeated:
        warnings.append(f"{repeated} DICOM files repeat the SOP instance UID of another one.")
    if programs:
        warnings.append(
            f"{programs} DICOM files carry a program in their preamble (CVE-2019-11687); it is "
            "ignored here and never written."
        )
    return warnings


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
