"""The calibrated columns of a prediction table: added to a folder that `classify` has written.

    prob_<class>           probability at the deployed prevalence
    share_low, share_high  95% bounds of the predicted class's vote share: of what endlessly many
                           trials would give, or for a stopped image the full run
    set                    conformal set of classes; {} = none fits, refer
    triage                 rule-in, rule-out or refer (answer or refer for several classes)
    ood_p_value, ood       how well the errors fit the calib images', and whether too badly

A baseline has no trials and no errors: its sets and triage read the softmax, and it gets neither
bounds of a vote share nor a gate.

Nothing is computed from a calibration of another model, stopping rule or number of trials: a vote
share means another thing there. The folder gets a `calibration.json` of its own, the entry that was
used, so that its columns stay explained when the run is calibrated again.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffdx._typing import Errors, LogSNRs
from diffdx.classification.predictions import (
    CLASSIFY_FILE,
    read_predictions,
    write_predictions,
)
from diffdx.classification.stopping import share_interval as full_run_interval
from diffdx.classification.store import ERRORS_FILE, read_errors
from diffdx.classification.voting import Ties, count_trials, majority_vote, vote_share
from diffdx.uncertainty.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationFile,
    read_calibration,
    stop_key,
)
from diffdx.uncertainty.calibrators import Probabilities
from diffdx.uncertainty.conformal import set_texts
from diffdx.uncertainty.deployment import Deployment, find_deployment
from diffdx.uncertainty.entropy import share_interval
from diffdx.uncertainty.prevalence import parse_prevalence

_COLUMNS = ("share_low", "share_high", "set", "triage", "ood_p_value", "ood")


def annotate(folder: Path, run: Path, *, prevalence: str | None = None) -> list[str]:
    """Add the calibrated columns to a predictions folder; return warnings for its reader.

    Without a calibration that fits, columns of an earlier one are removed and a warning names the
    command that makes it.

    Args:
        folder: Written by `diffdx classify`.
        run: The run that classified, whose `calibration.json` is used.
        prevalence: `em`, or class shares as `--prevalence` takes them; None takes what the
            calibration says.

    Raises:
        ConfigError: if the prevalence names no shares of these classes.
        CheckpointError: if the calibration or a table is damaged.
    """
    settings = json.loads((folder / CLASSIFY_FILE).read_text(encoding="utf-8"))
    stored = read_calibration(run)
    entry = None if stored is None else stored.find(settings)
    table = read_predictions(folder)
    classes = list(settings["classes"])
    table = table.drop(columns=[*_COLUMNS, *_prob_columns(classes)], errors="ignore")
    why_not = mismatch(stored, entry, settings, run)
    if stored is None or entry is None or why_not:
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)
        write_predictions(table, folder)
        return [why_not]
    if prevalence is not None:
        shares = parse_prevalence(prevalence, classes, settings["positive"])
        entry = dataclasses.replace(entry, prevalence=shares)
    images = _read_images(folder, table, classes)
    columns, deployed, warnings = calibrated_columns(entry, settings, images)
    columns["image_id"] = pd.array(images.image_ids, dtype="string")
    merged = table.merge(pd.DataFrame(columns), on="image_id", how="left", validate="one_to_one")
    write_predictions(_in_order(merged, classes), folder)
    used = dataclasses.replace(stored, by_stop={entry.stop: entry})
    used.write(folder, deployed=dataclasses.asdict(deployed))
    return warnings


class Judged(NamedTuple):
    """What the model said of images that did not fail."""

    image_ids: list[str]
    errors: Errors
    logsnr: LogSNRs
    softmax: Probabilities | None
    """Of a baseline, whose errors hold no trial."""


def _read_images(folder: Path, table: pd.DataFrame, classes: list[str]) -> Judged:
    scores = [f"score_{name}" for name in classes]
    if not set(scores) <= set(table):
        image_ids, errors, logsnr = read_errors(folder / ERRORS_FILE, classes)
        return Judged(list(image_ids), errors, logsnr, None)
    judged = table[table["status"] == "ok"]
    softmax = judged[scores].to_numpy(dtype=np.float64)
    nothing = np.empty((*softmax.shape, 0)), np.empty((len(judged), 0))
    return Judged(judged["image_id"].tolist(), *nothing, softmax)


def mismatch(
    stored: CalibrationFile | None, entry: Calibration | None, settings: dict[str, Any], run: Path
) -> str:
    """Return why a run's calibration says nothing about predictions; empty if it does.

    Args:
        stored: The calibration.
        entry: What `stored.find` returns for the settings.
        settings: Content of `classify.json`.
        run: Where the calibration lies; for the text.
    """
    stop, trials = settings["stop"], settings["trials"]
    command = f"diffdx calibrate {run} DATA"
    if trials is not None:
        command += f" --trials {trials} --stop {stop}"
    if settings["rule"] == "mean" and stop != "none":
        command += f" --rule mean --space {settings['space']}"
    if settings.get("eliminate") or settings.get("budget_seconds") is not None:
        return (
            "with --eliminate or --budget the number of trials follows no rule that could be "
            "calibrated, so there are no probabilities; classify without them"
        )
    if stored is None:
        return f"{run} is not calibrated, so there are no probabilities; run `{command}`"
    if stored.model_sha256 != settings["model_sha256"]:
        return f"{run / CALIBRATION_FILE} is of another model; run `{command}`"
    if entry is None:
        known = ", ".join(f"{e.stop} with {e.trials} trials" for e in stored.by_stop.values())
        return (
            f"{run / CALIBRATION_FILE}: by_stop has {known}, but not {stop_key(settings)} with "
            f"{trials} trials, so there are no probabilities; run `{command}`"
        )
    return ""


def calibrated_columns(
    entry: Calibration, settings: dict[str, Any], images: Judged
) -> tuple[dict[str, Any], Deployment, list[str]]:
    """Return the columns at the head of this module, what they are corrected to, and warnings.

    Args:
        entry: Of the calibration that fits.
        settings: Content of `classify.json`.
        images: At least one.
    """
    classes = list(settings["classes"])
    own = entry.probability.probabilities(images.errors, images.logsnr, images.softmax)
    deployed, warnings = find_deployment(entry, own)
    prob = deployed.correct(own, entry.prior)
    columns: dict[str, Any] = {name: prob[:, k] for k, name in enumerate(_prob_columns(classes))}
    foreign = None
    if images.softmax is None:
        share = vote_share(majority_vote(images.errors, ties=entry.probability.ties))
        columns["share_low"], columns["share_high"] = _share_bounds(
            images.errors, settings["ties"], stopped=settings["stop"] != "none"
        )
    else:
        share = images.softmax
    if entry.gate is not None:
        columns["ood_p_value"] = entry.gate.p_values(images.errors, images.logsnr)
        columns["ood"] = foreign = entry.gate.unusual(columns["ood_p_value"])
    columns["set"] = pd.array(set_texts(entry.conformal.sets(share), classes), dtype="string")
    columns["triage"] = pd.array(entry.triage.decide(share, refer=foreign), dtype="string")
    return columns, deployed, warnings


def _share_bounds(
    errors: np.ndarray, ties: Ties, *, stopped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the most voted class's share."""
    votes = majority_vote(errors, ties=ties)
    if stopped:
        rows, winner = np.arange(len(votes)), votes.argmax(axis=1)
        low, high = full_run_interval(errors, ties=ties)
        return low[rows, winner], high[rows, winner]
    return share_interval(votes.max(axis=1), count_trials(errors).astype(np.float64))


def _prob_columns(classes: list[str]) -> list[str]:
    return [f"prob_{name}" for name in classes]


def _in_order(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Return the columns in the order of the contract: the new ones around `entropy_bits`."""
    last = [name for name in _COLUMNS if name in table]
    added = {*last, *_prob_columns(classes)}
    names = [name for name in table if name not in added]
    at = names.index("entropy_bits") + 1 if "entropy_bits" in names else len(names)
    before, after = names[: at - 1], names[at - 1 : at]
    return table[[*before, *_prob_columns(classes), *after, *last, *names[at:]]]
