"""Who stands on two sides of a split: patients and lesions."""

import re

import numpy as np
import pandas as pd

from diffdx.data.audit.findings import Check
from diffdx.data.audit.subject import Subject
from diffdx.data.lists import image_key
from diffdx.data.splits import ROLES, short_hash

DERIVED_SHARE = 0.10
"""Share of patient ids that repeat their image's number, from which on they name no patients."""


def patient_overlap(subject: Subject) -> Check:
    """Return whether a patient or lesion is in two roles.

    The value counts the test patients that are also in training. Patient ids of one image each, of
    which many repeat the number of their image, were made up from the images: the check is then
    untestable, as it is without any patient.
    """
    patients = subject.frame["patient_id"]
    if patients.isna().all():
        return Check("patient_overlap", "untestable", None, "no image names its patient")
    if _made_up(subject):
        detail = "every patient id has one image and many repeat the image's number: no patients"
        return Check("patient_overlap", "untestable", None, detail)
    by_role = _names_by_role(subject, patients)
    shared, parts = _shared(by_role, "patients")
    if "lesion_id" in subject.metadata:
        lesions = subject.metadata["lesion_id"].replace("", None)
        more, lines = _shared(_names_by_role(subject, lesions), "lesions")
        shared, parts = shared | more, parts + lines
    known = f"{patients.notna().sum()} of {len(subject)} images name their patient"
    both = by_role.get("train", set()) & by_role.get("test", set())
    if not shared:
        detail = f"no patient is in two roles; {known}"
        return Check("patient_overlap", "pass", 0, detail)
    hashed = ", ".join(short_hash(name) for name in sorted(shared)[:3])
    detail = f"{'; '.join(parts)}; such as {hashed} (hashed); {known}"
    return Check("patient_overlap", "fail", len(both), detail)


def _names_by_role(subject: Subject, names: pd.Series) -> dict[str, set[str]]:
    return {
        role: set(names[subject.in_role(role)].dropna())
        for role in ROLES
        if subject.in_role(role).any()
    }


def _shared(by_role: dict[str, set[str]], what: str) -> tuple[set[str], list[str]]:
    """Return the names in two roles, and a line for each pair of roles, the later one first."""
    everyone: set[str] = set()
    lines = []
    roles = list(by_role)
    for i in reversed(range(len(roles))):
        later = roles[i]
        for earlier in roles[:i]:
            both = by_role[later] & by_role[earlier]
            if both:
                lines.append(
                    f"{len(both)} of {len(by_role[later])} {what} of {later} are also in {earlier}"
                )
                everyone |= both
    return everyone, lines


def _made_up(subject: Subject) -> bool:
    known = subject.frame[subject.frame["patient_id"].notna()]
    if known["patient_id"].duplicated().any():
        return False
    image_numbers = known["image_id"].map(image_key).map(_digits)
    patient_numbers = known["patient_id"].map(_digits)
    repeats = (image_numbers == patient_numbers) & (patient_numbers != "")
    return bool(np.mean(repeats) > DERIVED_SHARE)


def _digits(name: str) -> str:
    return "".join(re.findall(r"\d+", name))
