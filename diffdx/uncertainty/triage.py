"""Rule in, rule out, or refer: thresholds whose error among the answered is certified.

    rule-in    prob of the positive class >= t_in,   PPV = share of positives among them
    rule-out   prob of the positive class <= t_out,  NPV = share of negatives among them
    answer     (several classes) largest prob >= t,  the share of right predictions among them

Each threshold answers as many calibration patients as `certification` lets it, so that its PPV, NPV
or accuracy is at least the level asked for, with the confidence asked for, although it was chosen
on the same patients.

The promise needs images exchangeable with the calibration's, prevalence included: PPV and NPV move
with it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from diffdx._typing import Labels
from diffdx.uncertainty.certification import accepted_lengths
from diffdx.uncertainty.exchangeable import one_per_patient

Probabilities = Float[np.ndarray, "B K"]
Flags = Bool[np.ndarray, "B"]


@dataclass(frozen=True)
class Certificate:
    """One kind of answer and what calibration proved of it."""

    level: float
    """Share of right answers that was to be certified."""
    threshold: float | None
    """Sureness from which the answer is given, in [0, 1]; None: never, nothing was certified."""
    answered: int
    """Calibration patients above the threshold."""
    wrong: int
    """Those among them that the answer was wrong for."""
    smallest_error: float
    """Share of wrong answers below which this many patients could certify nothing, were all right.
    """


@dataclass(frozen=True)
class Triage:
    """Thresholds of rule-in, rule-out and refer; for several classes of answer and refer."""

    positive: int | None
    """Class that is ruled in or out; None: answer or refer."""
    confidence: float
    """Probability over calibration sets that a certificate is true."""
    n: int
    """Calibration patients."""
    rules: dict[str, Certificate]
    """By the text of the answer: `rule-in` and `rule-out`, or `answer`."""

    def decide(self, prob: Probabilities, refer: Flags | None = None) -> list[str]:
        """Return `rule-in`, `rule-out`, `answer` or `refer` for each image.

        Args:
            prob: Probabilities of the classes.
            refer: Images to refer whatever their probabilities, such as those that the
                out-of-distribution gate flagged.
        """
        decided = np.full(len(prob), "refer", dtype=object)
        for answer, rule in self.rules.items():
            if rule.threshold is not None:
                decided[_sureness(answer, prob, self.positive) >= rule.threshold] = answer
        if refer is not None:
            decided[refer] = "refer"
        return [str(answer) for answer in decided]

    def notices(self) -> list[str]:
        """Return a sentence for each answer that could not be certified."""
        return [
            f"Triage: {answer} cannot be certified at {rule.level:g} with {self.confidence:.0%} "
            f"confidence on {self.n} calibration patients, so it is never given; the smallest "
            f"certifiable share of wrong answers here is {rule.smallest_error:.3g}."
            for answer, rule in self.rules.items()
            if rule.threshold is None
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Triage":
        """Return the triage that `as_dict` described.

        Args:
            stored: Entries `positive`, `confidence`, `n`, `rules`.
        """
        rules = {answer: Certificate(**rule) for answer, rule in stored["rules"].items()}
        return cls(stored["positive"], stored["confidence"], stored["n"], rules)


def fit_triage(
    prob: Probabilities,
    labels: Labels,
    *,
    positive: int | None,
    npv: float = 0.95,
    ppv: float = 0.98,
    accuracy: float = 0.95,
    confidence: float = 0.9,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Triage:
    """Return the thresholds that answer most calibration patients, each answer certified.

    Args:
        prob: Probabilities of the classes, from a model and calibrator that did not see these
            images. Of two classes only their order matters.
        labels: True classes.
        positive: Class to rule in or out; None, or more than two classes: answer or refer.
        npv: Share of negatives to certify among those ruled out, in (0, 1).
        ppv: Share of positives to certify among those ruled in.
        accuracy: Share of right predictions to certify among those answered.
        confidence: Probability, over calibration sets, that a certificate is true; each rule has
            its own.
        groups: The patient of each image; one image of each is used.
        seed: Which.

    Raises:
        ValueError: if there is no image, or a level or the confidence is no share: no binomial
            bound exists.
    """
    for share in (npv, ppv, accuracy, confidence):
        if not 0 < share < 1:
            raise ValueError(f"levels and confidence must lie in (0, 1), as 0.95; one is {share}")
    if len(prob) == 0:
        raise ValueError("triage needs at least one calibration image")
    chosen = one_per_patient(groups, len(prob), seed=seed)
    prob, y, delta = prob[chosen], labels[chosen], 1 - confidence
    if positive is None or prob.shape[1] != 2:
        sure = _sureness("answer", prob, None)
        lists = {"answer": (accuracy, sure, prob.argmax(axis=1) != y)}
    else:
        lists = {
            "rule-in": (ppv, _sureness("rule-in", prob, positive), y != positive),
            "rule-out": (npv, _sureness("rule-out", prob, positive), y == positive),
        }
    lengths = _without_overlap(
        [_ends(sure, wrong, level, delta) for level, sure, wrong in lists.values()], len(y)
    )
    rules = {
        answer: _certificate(length, *lists[answer], delta)
        for answer, length in zip(lists, lengths, strict=True)
    }
    return Triage(None if "answer" in rules else positive, confidence, len(y), rules)


def _sureness(answer: str, prob: Probabilities, positive: int | None) -> Float[np.ndarray, "B"]:
    if positive is None:
        sure: np.ndarray = prob.max(axis=1)
    else:
        sure = prob[:, positive] if answer == "rule-in" else 1 - prob[:, positive]
    return sure.astype(np.float64)


def _ends(
    sure: Float[np.ndarray, "n"], wrong: Bool[np.ndarray, "n"], level: float, delta: float
) -> Int[np.ndarray, "ends 2"]:
    """Certified numbers of answers, none of them included, with the wrong ones among them."""
    lengths = np.append(0, accepted_lengths(sure, wrong, level, delta))
    errors = np.append(0, np.cumsum(wrong[np.argsort(-sure, kind="stable")]))
    return np.stack([lengths, errors[lengths]], axis=1)


def _without_overlap(ends: list[Int[np.ndarray, "..."]], n: int) -> list[int]:
    """The numbers that answer most patients, each at most once, and then fewest of them wrongly."""
    if len(ends) == 1:
        return [int(ends[0][-1, 0])]
    answered, wrong = (
        np.add.outer(first, second) for first, second in zip(ends[0].T, ends[1].T, strict=True)
    )
    worth = np.where(answered <= n, answered * (n + 1) - wrong, -1)
    i, j = np.unravel_index(worth.argmax(), worth.shape)
    return [int(ends[0][i, 0]), int(ends[1][j, 0])]


def _certificate(
    length: int,
    level: float,
    sure: Float[np.ndarray, "n"],
    wrong: Bool[np.ndarray, "n"],
    delta: float,
) -> Certificate:
    order = np.argsort(-sure, kind="stable")[:length]
    right = int((~wrong).sum())
    return Certificate(
        level=level,
        threshold=float(sure[order[-1]]) if length else None,
        answered=length,
        wrong=int(wrong[order].sum()),
        # With all of them right and no choice to pay for: level^n = delta.
        smallest_error=1 - delta ** (1 / right) if right else 1.0,
    )


def triage_summary(
    decisions: Sequence[str], labels: Labels, y_hat: Labels, *, positive: int | None
) -> dict[str, Any]:
    """Return what the triage did on labelled images: the entry `triage` of `summary.json`.

    Args:
        decisions: What `Triage.decide` returned.
        labels: True classes.
        y_hat: Predicted classes, which `answer` gives out.
        positive: Class that is ruled in or out, or None.

    Returns:
        `{npv, ppv, accuracy, answered, n: {answer: images}}`; a share of no image is null.
    """
    texts = np.asarray(decisions, dtype=object)
    answers = ("rule-in", "rule-out", "answer", "refer")
    is_in, is_out, is_plain = (texts == answer for answer in answers[:3])
    is_positive = labels == positive
    right = np.where(is_plain, y_hat == labels, np.where(is_in, is_positive, ~is_positive))
    answered = texts != "refer"
    return {
        "ppv": _share(right[is_in]),
        "npv": _share(right[is_out]),
        "accuracy": _share(right[answered]),
        "answered": _share(answered),
        "n": {answer: int((texts == answer).sum()) for answer in answers},
    }


def _share(true: Bool[np.ndarray, "n"]) -> float | None:
    return float(true.mean()) if len(true) else None
