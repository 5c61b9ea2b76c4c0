"""What an audit says: a verdict for each question that was asked of the data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffdx._notice import NOTICE

Verdict = Literal["pass", "warn", "fail", "untestable"]
SEVERITY: tuple[Verdict, ...] = ("untestable", "pass", "warn", "fail")

LEAKS = ("patient_overlap", "exact_duplicates")
"""Checks whose failure makes the test set part of the training set."""

AUDITED = "Audit before training: "
"""How the audit's line begins among the warnings of a run and of its results."""


@dataclass(frozen=True)
class Check:
    """One question to the data and its answer.

    Attributes:
        name: One of the names of `audit.json`.
        verdict: `fail` must be answered before a result is believed; `untestable` if the data
            cannot say.
        value: The number that decided; None where there is none.
        detail: What was found, in words; patients appear as short hashes.
        groups: Image ids that belong together, for the thumbnails.
    """

    name: str
    verdict: Verdict
    value: float | int | None
    detail: str
    groups: Sequence[tuple[str, ...]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return name, verdict, value and detail."""
        value = self.value if self.value is None else round(float(self.value), 4)
        return {
            "name": self.name,
            "verdict": self.verdict,
            "value": value,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Audit:
    """All answers about one set of images.

    Attributes:
        name: Of the dataset.
        n: Number of images.
        patients: Number of known patients; None if none is known.
        roles: Images in each role.
        excluded: Columns and folders that repeat the label, so that no rule may use them.
        fingerprint: Of the data.
        checks: The answers.
    """

    name: str
    n: int
    patients: int | None
    roles: dict[str, int]
    excluded: list[str]
    fingerprint: str
    checks: list[Check]

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all checks."""
        return max((check.verdict for check in self.checks), key=SEVERITY.index)

    def named(self, verdict: Verdict) -> list[Check]:
        """Return the checks with this verdict."""
        return [check for check in self.checks if check.verdict == verdict]

    @property
    def leaks(self) -> list[Check]:
        """Failures that put test images or patients into training."""
        return [check for check in self.named("fail") if check.name in LEAKS]

    def line(self) -> str:
        """Return the audit in one line, to stand beside every result."""
        parts = []
        for verdict in ("fail", "warn", "untestable"):
            names = [_short(check) for check in self.named(verdict)]
            parts += [f"{verdict}: {', '.join(names)}"] if names else []
        return f"{self.verdict} ({'; '.join(parts)})" if parts else self.verdict

    def warning(self) -> str:
        """Return the line that a run and its results carry among their warnings."""
        return AUDITED + self.line()

    def as_json(self) -> dict[str, Any]:
        """Return the content of `audit.json`."""
        return {
            "dataset": self.name,
            "data_fingerprint": self.fingerprint,
            "n": self.n,
            "patients": self.patients,
            "roles": self.roles,
            "verdict": self.verdict,
            "line": self.line(),
            "excluded": self.excluded,
            "checks": [check.as_json() for check in self.checks],
            "research_use_only": NOTICE,
        }


def read_audit(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's `audit.json`; None if there is none."""
    path = folder / "audit.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def audit_line(warnings: Sequence[str]) -> str | None:
    """Return the audit's line among the warnings of a result; None if it was not audited."""
    lines = (text.removeprefix(AUDITED) for text in warnings if text.startswith(AUDITED))
    return next(lines, None)


def _short(check: Check) -> str:
    if check.value is None:
        return check.name
    shown = f"{check.value:.3f}" if check.name.endswith("_rule") else f"{check.value:g}"
    return f"{check.name} {shown}"
