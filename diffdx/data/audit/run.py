"""The audit of a set of images: every check, in the order of `audit.json`.

Checks of tables cost seconds. Those of pixels need one pass over the images, which may be kept by
the data's fingerprint and may be cut after a time: what was seen until then is a random sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffdx.data.audit import duplicates, shortcuts
from diffdx.data.audit.findings import Audit, Check
from diffdx.data.audit.looks import look_at_all
from diffdx.data.audit.overlap import patient_overlap
from diffdx.data.audit.prevalence import prevalence
from diffdx.data.audit.subject import Subject
from diffdx.data.splits import ROLES


@dataclass(frozen=True)
class Pass:
    """How the images are read.

    Attributes:
        cache: Folder where a finished pass is kept; None keeps none.
        seconds: Stop after so long; None reads all.
        progress: Called with (images done, images in all).
    """

    cache: Path | None = None
    seconds: float | None = None
    progress: Callable[[int, int], None] = lambda done, total: None


def run_audit(subject: Subject, reading: Pass | None = None) -> Audit:
    """Return the answers to all questions about these images.

    Args:
        subject: Images, with pixels or without.
        reading: How the pixels are read, if there are any.
    """
    checks = [patient_overlap(subject), *_pixel_checks(subject, reading or Pass())]
    checks += [
        shortcuts.filename_rule(subject),
        shortcuts.source_rule(subject),
        shortcuts.metadata_rule(subject),
        prevalence(subject),
    ]
    order = (
        "patient_overlap",
        "exact_duplicates",
        "near_duplicates",
        "label_conflicts",
        "filename_rule",
        "source_rule",
        "pixel_rule",
        "metadata_rule",
        "prevalence",
    )
    patients = subject.frame["patient_id"].nunique()
    return Audit(
        name=subject.name,
        n=len(subject),
        patients=int(patients) or None,
        roles={role: n for role in ROLES if (n := int(subject.in_role(role).sum()))},
        excluded=shortcuts.excluded(subject),
        fingerprint=subject.fingerprint,
        checks=sorted(checks, key=lambda check: order.index(check.name)),
    )


def _pixel_checks(subject: Subject, reading: Pass) -> list[Check]:
    if subject.dataset is None:
        without = Check("pixel_rule", "untestable", None, "untestable without the images")
        return [*duplicates.listed_twice(subject), without]
    looks = look_at_all(
        subject.dataset,
        cache=reading.cache,
        seconds=reading.seconds,
        progress=reading.progress,
    )
    found = duplicates.find_duplicates(subject.dataset, looks)
    return [
        duplicates.exact_duplicates(subject, found),
        duplicates.near_duplicates(subject, found),
        duplicates.label_conflicts(subject, found),
        shortcuts.pixel_rule(subject, looks),
    ]
