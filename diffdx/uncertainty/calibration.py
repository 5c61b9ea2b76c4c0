"""What `diffdx calibrate` saves: `calibration.json`, one entry for each way of stopping.

    probability   statistic (vote or weighted) -> calibrator -> probability at the calib prevalence
    prevalence    class shares where the model is used: the calib ones, given ones, or `em`
    conformal, triage, ood    thresholds fitted to the same images (their own modules)

Conformal sets and triage read the vote share, whatever the `prob_` columns are corrected to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffdx._files import write_json
from diffdx._notice import NOTICE
from diffdx._typing import Errors, LogSNRs
from diffdx.classification.voting import Ties, majority_vote
from diffdx.classification.weighted import LogSNRWeights, Scores, weighted_scores
from diffdx.errors import CheckpointError
from diffdx.uncertainty.calibrators import Calibrator, Probabilities
from diffdx.uncertainty.conformal import ConformalSets
from diffdx.uncertainty.out_of_distribution import OutOfDistributionGate
from diffdx.uncertainty.triage import Triage

Json = dict[str, Any]

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSION = 2
_LEAST_SOFTMAX = 1e-12


def stop_key(settings: Mapping[str, Any]) -> str:
    """Return the key in `by_stop` of runs with these entries of `classify.json`.

    It is the text of `--stop` with its number in shortest form, followed by the rule that stopped
    the images if not the vote did; `none` for a baseline, which has no trials.
    """
    if settings["stop"] is None:
        return "none"
    kind, colon, number = str(settings["stop"]).rpartition(":")
    if number not in ("none", "exact"):
        number = f"{float(number):g}"
    stop, rule = f"{kind}{colon}{number}", settings["rule"]
    if stop == "none" or rule == "vote":
        return stop
    return f"{stop} {rule}_{settings['space']}"


def vote_scores(errors: Errors, ties: Ties) -> Scores:
    """Return log vote shares with half a vote added to each class, so that none is -inf.

    z[b, k] = log( (votes[b, k] + 1/2) / (trials[b] + K/2) )

    Args:
        errors: Mean squared v errors >= 0; NaN under every class of a trial that was not run.
        ties: What a tied trial gives to the classes.
    """
    votes = majority_vote(errors, ties=ties) + 0.5
    return np.asarray(np.log(votes / votes.sum(axis=1, keepdims=True)))


def softmax_scores(softmax: Probabilities) -> Scores:
    """Return log softmax, no class below 1e-12 so that none is -inf."""
    return np.asarray(np.log(np.maximum(softmax, _LEAST_SOFTMAX)))


@dataclass(frozen=True)
class ProbabilityModel:
    """From stored errors, or a baseline's softmax, to the probability of each class."""

    statistic: str
    """`vote`, `weighted` or `softmax`: what the calibrator reads."""
    calibrator: Calibrator
    weights: LogSNRWeights | None
    """Of the weighted statistic, kept whether the calibrator reads it or not; baselines have none.
    """
    ties: Ties

    def probabilities(
        self, errors: Errors, logsnr: LogSNRs, softmax: Probabilities | None = None
    ) -> Probabilities:
        """Return the probability of each class at the prevalence of the calibration images.

        Args:
            errors: Mean squared v errors >= 0 of runs stopped by the rule calibrated for.
            logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
            softmax: Of a baseline, which has no errors.
        """
        if softmax is not None:
            scores = softmax_scores(softmax)
        elif self.weights is None or self.statistic == "vote":
            scores = vote_scores(errors, self.ties)
        else:
            scores = weighted_scores(errors, logsnr, self.weights)
        return self.calibrator.probabilities(scores)

    def as_dict(self) -> Json:
        """Return a value that JSON can hold."""
        return {"statistic": self.statistic, "ties": self.ties, **self.calibrator.as_dict()}

    @classmethod
    def from_dict(cls, stored: Json, weights: Json | None) -> "ProbabilityModel":
        """Return what `as_dict` stored, with the weights stored beside it."""
        return cls(
            stored["statistic"],
            Calibrator.from_dict(stored),
            None if weights is None else LogSNRWeights.from_dict(weights),
            stored["ties"],
        )


@dataclass(frozen=True)
class Calibration:
    """Everything fitted to the calib images for one way of stopping."""

    stop: str
    """Which runs it is for: their `stop_key`."""
    trials: int
    """Trials of an image that was not stopped; 0 for a baseline."""
    counts: Json
    """`n` images and `patients`, and how many per class."""
    probability: ProbabilityModel
    candidates: list[Json]
    """Cross-validated log loss of each statistic and calibrator tried; one is `chosen`."""
    held_out: Json
    """Reliability on images that the fit had not seen, choice of candidate included."""
    held_out_altered: Json | None
    """Likewise on altered copies, and their number; None where none were fitted to."""
    prior: dict[str, float]
    """Class shares of the images that the probability model was fitted to."""
    prevalence: dict[str, float] | str
    """Class shares where the model is used; `calib` = as `prior`, `em` = found there."""
    difference_bounds: dict[str, float]
    """Largest error difference expected of a trial, by mean rule; empty for stopped images."""
    conformal: ConformalSets
    triage: Triage
    gate: OutOfDistributionGate | None
    """None for a baseline: it reads the errors under all classes."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Return a value that JSON can hold."""
        return {
            **self.counts,
            "trials": self.trials,
            "prior": self.prior,
            "weighted": self.probability.weights and self.probability.weights.as_dict(),
            "difference_bounds": self.difference_bounds,
            "probability": {
                **self.probability.as_dict(),
                "candidates": self.candidates,
                "held_out": self.held_out,
                "held_out_altered": self.held_out_altered,
            },
            "prevalence": self.prevalence,
            "conformal": self.conformal.as_dict(),
            "triage": self.triage.as_dict(),
            "ood": self.gate and self.gate.as_dict(),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, stop: str, stored: Json) -> "Calibration":
        """Return what `as_dict` stored."""
        probability = stored["probability"]
        return cls(
            stop=stop,
            trials=stored["trials"],
            counts={name: stored[name] for name in ("n", "patients", "per_class")},
            probability=ProbabilityModel.from_dict(probability, stored["weighted"]),
            candidates=probability["candidates"],
            held_out=probability["held_out"],
            held_out_altered=probability["held_out_altered"],
            prior=stored["prior"],
            prevalence=stored["prevalence"],
            difference_bounds=stored["difference_bounds"],
            conformal=ConformalSets.from_dict(stored["conformal"]),
            triage=Triage.from_dict(stored["triage"]),
            gate=stored["ood"] and OutOfDistributionGate.from_dict(stored["ood"]),
            warnings=tuple(stored["warnings"]),
        )


@dataclass(frozen=True)
class CalibrationFile:
    """Content of a `calibration.json`."""

    model_sha256: str
    classes: tuple[str, ...]
    positive: str | None
    by_stop: dict[str, Calibration]

    def find(self, settings: Mapping[str, Any]) -> Calibration | None:
        """Return the entry for runs with these entries of `classify.json`, if there is one."""
        entry = self.by_stop.get(stop_key(settings))
        fits = entry is not None and entry.trials == (settings["trials"] or 0)
        return entry if fits else None

    def with_entry(self, calibration: Calibration) -> "CalibrationFile":
        """Return the file with an entry added or replaced."""
        by_stop = {**self.by_stop, calibration.stop: calibration}
        return CalibrationFile(self.model_sha256, self.classes, self.positive, by_stop)

    def write(self, folder: Path, **more: Any) -> Path:
        """Write `calibration.json` in one piece, with further entries, and return its path."""
        path = folder / CALIBRATION_FILE
        content = {
            "format_version": FORMAT_VERSION,
            "notice": NOTICE,
            "model_sha256": self.model_sha256,
            "classes": list(self.classes),
            "positive": self.positive,
            **more,
            "by_stop": {stop: entry.as_dict() for stop, entry in self.by_stop.items()},
        }
        write_json(path, content)
        return path


def read_calibration(folder: Path) -> CalibrationFile | None:
    """Return the calibration of a run or predictions folder; None if it has none.

    Raises:
        CheckpointError: if the file is damaged, or of another format version.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version = stored["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: format_version {version}, this diffdx reads {FORMAT_VERSION}; "
                "run `diffdx calibrate` again"
            )
        return CalibrationFile(
            stored["model_sha256"],
            tuple(stored["classes"]),
            stored["positive"],
            {stop: Calibration.from_dict(stop, entry) for stop, entry in stored["by_stop"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); run `diffdx calibrate` again"
        ) from None
