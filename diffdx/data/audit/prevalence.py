"""How many images of each class each role holds, and whether training and test agree."""

from collections import Counter

import numpy as np

from diffdx.data.audit.findings import Check, Verdict
from diffdx.data.audit.subject import Subject
from diffdx.data.splits import ROLES

SHIFT = 0.05
"""Difference of a class's share between train and test from which on it is reported."""
STANDARD_ERRORS = 3.0


def prevalence(subject: Subject) -> Check:
    """Return the sizes of the roles, and whether a class is rarer in test than in training.

    The value is the largest difference of a class's share. It is reported from .05 on, if it is
    above three standard errors of the difference of two shares.
    """
    counts = {}
    for role in ROLES:
        labels = subject.frame["label"][subject.in_role(role)].dropna()
        if len(labels):
            counts[role] = Counter(labels)
    if not counts:
        return Check("prevalence", "untestable", None, "no image has a label and a role")
    shown = [
        f"{role} {of.total()} ("
        + ", ".join(f"{name} {of[name] / of.total():.3f}" for name in sorted(of))
        + ")"
        for role, of in counts.items()
    ]
    detail = "; ".join(shown)
    if not {"train", "test"} <= counts.keys():
        return Check("prevalence", "untestable", None, f"no train and test to compare: {detail}")
    train, test = counts["train"], counts["test"]
    shift, is_beyond_chance = 0.0, False
    for name in sorted(train | test):
        p, q = train[name] / train.total(), test[name] / test.total()
        error = np.sqrt(p * (1 - p) / train.total() + q * (1 - q) / test.total())
        if abs(p - q) >= shift:
            shift, is_beyond_chance = abs(p - q), bool(abs(p - q) > STANDARD_ERRORS * error)
    verdict: Verdict = "warn" if shift >= SHIFT and is_beyond_chance else "pass"
    return Check("prevalence", verdict, shift, detail)
