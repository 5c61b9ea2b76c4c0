"""Reads a predictions folder as `diffdx classify` leaves it; refuses files that contradict."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffdx._typing import Errors, Labels, LogSNRs
from diffdx.classification import predictions
from diffdx.classification.predictions import CLASSIFY_FILE, PREDICTIONS_FILE
from diffdx.classification.rules import RULES, WEIGHTED, Decisions, apply_rule, rule_name
from diffdx.classification.store import ERRORS_FILE, read_errors
from diffdx.classification.voting import majority_vote, vote_share
from diffdx.classification.weighted import LogSNRWeights
from diffdx.errors import DataError
from diffdx.uncertainty.calibration import CALIBRATION_FILE, Calibration, read_calibration

DIFFUSION = "diffusion"
BASELINE = "baseline"
SOFTMAX = "softmax"
"""The only rule of a baseline: the largest softmax."""
SETTINGS = ("classes", "positive", "rule", "space", "trials", "bank", "stop", "seed", "ties")
"""Entries of `classify.json` that every result quotes."""


@dataclass(frozen=True)
class StoredPredictions:
    """One predictions folder, images that failed already set apart.

    A baseline has no trials: its `errors` are (B, K, 0), its scores are columns of the table.
    """

    folder: Path
    settings: dict[str, Any]
    """`classify.json`: how the predictions were made."""
    table: pd.DataFrame
    """A row per classified image, in the order of `errors`."""
    errors: Errors
    logsnr: LogSNRs
    n_failed: int
    """Images without a prediction; they are in no array here."""
    calibration: Calibration | None = None
    """What its calibrated columns were computed with, if it has any."""

    @property
    def kind(self) -> str:
        """What made the predictions: `diffusion` or `baseline`."""
        return str(self.settings.get("kind", DIFFUSION))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the arrays."""
        return list(self.settings["classes"])

    @property
    def positive(self) -> int | None:
        """Index of the class that F1 and AUROC mean; None means the average over the classes."""
        name = self.settings["positive"]
        return None if name is None else self.classes.index(name)

    @property
    def labels(self) -> Labels:
        """True classes; -1 where the image has no label."""
        index = {name: k for k, name in enumerate(self.classes)}
        return np.array([index.get(name, -1) for name in self.table["label"]], dtype=np.int64)

    @property
    def rule(self) -> str:
        """The run's own rule, by the name it has in `diffdx.classification.rules`."""
        return rule_name(str(self.settings["rule"]), str(self.settings["space"]))

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that can be applied to the errors: `weighted` too where there are weights.

        None for a baseline, which has no errors.
        """
        if self.kind == BASELINE:
            return ()
        return RULES if self.weights is None else (*RULES, WEIGHTED)

    @property
    def weights(self) -> LogSNRWeights | None:
        """Of the weighted rule: those that the run decided by, else its calibration's."""
        decided_by = self.settings.get("weights")
        if decided_by is not None:
            return LogSNRWeights.from_dict(decided_by)
        return None if self.calibration is None else self.calibration.probability.weights

    @property
    def probabilities(self) -> Float[np.ndarray, "B K"]:
        """The calibrated probabilities, as the table gives them; only if there is a calibration."""
        columns = [f"prob_{name}" for name in self.classes]
        return self.table[columns].to_numpy(dtype=np.float64)

    @property
    def patients(self) -> list[str]:
        """The patient of each image; an image whose patient is unknown stands for itself."""
        rows = zip(self.table["patient_id"], self.table["image_id"], strict=True)
        return [
            f"image {image}" if is_blank(patient) else f"patient {patient}"
            for patient, image in rows
        ]

    @property
    def shares(self) -> Float[np.ndarray, "B K"]:
        """What entropy is taken of: vote shares, or a baseline's softmax; rows sum to 1."""
        if self.kind == BASELINE:
            return self.own.scores
        return vote_share(majority_vote(self.errors, ties=self.settings["ties"]))

    @property
    def softmax(self) -> Float[np.ndarray, "B K"] | None:
        """A baseline's scores; None for a diffusion model."""
        return self.own.scores if self.kind == BASELINE else None

    @property
    def own(self) -> Decisions:
        """The scores and decisions of the run's own rule."""
        return self.decide(self.rule)

    def decide(self, rule: str) -> Decisions:
        """Return the scores and decisions of one of `rules`, from the stored errors.

        Or of `softmax`, the rule of a baseline, from the table.

        Raises:
            ValueError: if the rule is unknown or, for `weighted`, there are no weights.
        """
        if self.kind == BASELINE and rule == SOFTMAX:
            columns = [f"score_{name}" for name in self.classes]
            scores = self.table[columns].to_numpy(dtype=np.float64)
            tied = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1
            return Decisions(scores, scores.argmax(axis=1).astype(np.int64), tied)
        return apply_rule(
            rule, self.errors, self.logsnr, ties=self.settings["ties"], weights=self.weights
        )

    def labelled(self) -> "StoredPredictions":
        """Return only the images whose true class is known."""
        known = self.labels >= 0
        return replace(
            self, table=self.table[known], errors=self.errors[known], logsnr=self.logsnr[known]
        )


def read_predictions(folder: Path) -> StoredPredictions:
    """Return the predictions, settings and errors stored in a folder.

    Args:
        folder: Output of `diffdx classify`: `classify.json`, `predictions.parquet`, and
            `errors.parquet` if a diffusion model made it.

    Raises:
        DataError: if a file is missing, or if the files contradict each other (other images, other
            classes, an unknown label): numbers from such a folder would describe no run that ever
            happened.
        CheckpointError: if a table or the calibration is damaged.
    """
    settings = _read_settings(folder / CLASSIFY_FILE)
    classes = settings["classes"]
    is_baseline = settings.get("kind") == BASELINE
    everything = _read_table(folder, classes, "score_" if is_baseline else "vote_share_")
    table = everything[everything["status"] == "ok"].set_index("image_id", drop=False)
    n_failed = len(everything) - len(table)
    if is_baseline:
        no_errors = np.empty((len(table), len(classes), 0)), np.empty((len(table), 0))
        calibration = _read_calibration(folder, settings, table)
        return StoredPredictions(
            folder, settings, table.reset_index(drop=True), *no_errors, n_failed, calibration
        )
    image_ids, errors, logsnr = read_errors(_existing(folder / ERRORS_FILE), classes)
    if sorted(image_ids) != sorted(table.index):
        unmatched = len(set(image_ids) ^ set(table.index))
        raise DataError(
            f"{folder}: predictions.parquet and errors.parquet hold different images (image_id; "
            f"{unmatched} of them in one file only); classify again into an empty folder"
        )
    return StoredPredictions(
        folder,
        settings,
        table.loc[image_ids].reset_index(drop=True),
        errors,
        logsnr,
        n_failed,
        _read_calibration(folder, settings, table),
    )


def is_blank(entry: Any) -> bool:
    """Return whether a text cell of a table is empty."""
    return bool(pd.isna(entry)) or entry == ""


def _read_calibration(
    folder: Path, settings: dict[str, Any], table: pd.DataFrame
) -> Calibration | None:
    """Return the folder's own calibration, which explains its calibrated columns."""
    stored = read_calibration(folder)
    if stored is None:
        return None
    columns = [f"prob_{name}" for name in settings["classes"]]
    entry = stored.find(settings)
    fits = stored.model_sha256 == settings.get("model_sha256") and entry is not None
    if not fits or not set(columns) <= set(table):
        raise DataError(
            f"{folder / CALIBRATION_FILE} (model_sha256, by_stop) is not what made this folder's "
            f"predictions (columns {', '.join(columns)}); remove it, or classify again"
        )
    return entry


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); classify again") from error
    missing = [key for key in SETTINGS if key not in settings]
    if missing:
        raise DataError(
            f"{path}: no {', '.join(missing)}; classify again with this version of diffdx"
        )
    if settings["positive"] is not None and settings["positive"] not in settings["classes"]:
        raise DataError(
            f"{path}: positive {settings['positive']!r} is none of the classes "
            f"{', '.join(settings['classes'])}; classify again"
        )
    return dict(settings)


def _read_table(folder: Path, classes: list[str], scores: str) -> pd.DataFrame:
    """Return the table; `scores` is what the names of its score columns begin with."""
    path = _existing(folder / PREDICTIONS_FILE)
    table = predictions.read_predictions(folder)
    required = ["image_id", "path", "patient_id", "label", "prediction", "nfe", "status"]
    missing = [
        name for name in required + [f"{scores}{name}" for name in classes] if name not in table
    ]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; the folder mixes files of different runs"
        )
    if table["image_id"].duplicated().any():
        raise DataError(f"{path}: column image_id repeats a value; each image needs its own")
    label = (
        table["label"].astype("object").where(table["label"].notna() & (table["label"] != ""), None)
    )
    unknown = sorted({str(name) for name in label.dropna()} - set(classes))
    if unknown:
        raise DataError(
            f"{path}: column label holds {', '.join(map(repr, unknown))}, none of the model's "
            f"classes {', '.join(map(repr, classes))}; map the labels, or leave them empty"
        )
    return table.assign(label=label)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the folder that `diffdx classify --out` wrote")
    return path
