"""What a run would have been with fewer trials, another rule or a stop: no network is called.

A full run's store holds every error, and trial n of an image is the same in every run on its bank.
So the first n trials, a stopping rule or an elimination can be applied to stored errors, and give
what a run with these settings gives. Only a time budget cannot be replayed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffdx._files import exclusive
from diffdx.classification.conclusion import conclude
from diffdx.classification.predictions import CLASSIFY_FILE, read_predictions
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.stopping.rule import NoStop, truncated
from diffdx.classification.store import ERRORS_FILE, ErrorStore, read_errors
from diffdx.classification.voting import count_trials
from diffdx.classification.work import NOT_STOPPED, Ending
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError, DataError


def replay(source: Path, folder: Path, settings: ClassifySettings) -> pd.DataFrame:
    """Write the predictions folder of a run with other settings and return its table.

    Args:
        source: A predictions folder whose images ran all their trials.
        folder: The predictions folder to write.
        settings: What decides an image is taken from here, all else is the source's.

    Raises:
        ConfigError: if a time budget is asked for, or `folder` holds another run.
        DataError: if the source has stopped images or fewer trials than asked for.
    """
    if settings.budget_seconds is not None:
        raise ConfigError("a time budget cannot be replayed: stored errors take no time")
    facts = facts_of(source)
    image_ids, errors, logsnr = read_errors(source / ERRORS_FILE, facts["classes"])
    n = settings.num_trials
    if not np.isfinite(errors).all() or n > errors.shape[2]:
        raise DataError(
            f"{source} cannot be replayed with {n} trials: it takes a run of at least as many, "
            "with --stop none and no class eliminated"
        )
    ending, logsnr = settings.ending(len(facts["classes"])), logsnr[:, :n]
    errors = truncated(errors[:, :, :n], logsnr, ending.stop or NoStop(n), ending.elimination)
    depends_on = {name: facts[name] for name in ("model_sha256", "seed", "bank", "sampling")}
    decision = {name: str(value) for name, value in settings.decision.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        store = ErrorStore(
            folder, facts["classes"], depends_on | decision, overwrite=settings.overwrite
        )
        for image_id, image, t in zip(image_ids, errors, logsnr, strict=True):
            if image_id not in store.finished:
                store.add(image_id, image, t, _stopped_by(image, t, ending))
        before = read_predictions(source)
        table, _ = conclude(store, _records(before), _failures(before), settings, facts)
    return table


def _stopped_by(
    errors: Float[np.ndarray, "K N"], logsnr: Float[np.ndarray, "N"], ending: Ending
) -> str:
    """What ended an image, from its errors as they were left."""
    n = int(count_trials(errors[None])[0])
    if n == len(logsnr):
        return NOT_STOPPED
    if ending.stop is not None and ending.stop.stopping_time(errors[:, :n], logsnr[:n]) == n:
        return ending.stop.name
    return ending.elimination.name if ending.elimination is not None else NOT_STOPPED


def facts_of(source: Path) -> dict[str, Any]:
    """What `classify.json` says of the run itself, without its cost."""
    path = source / CLASSIFY_FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: name a folder written by 'diffdx classify'"
        ) from error
    return {**facts, "seconds": None, "images_per_second": None, "calls": 0}


def _records(table: pd.DataFrame) -> list[Record]:
    columns = table[["image_id", "path", "label", "patient_id"]].astype(object)
    rows = columns.where(columns.notna(), None).itertuples(index=False)
    return [Record(*row) for row in rows]


def _failures(table: pd.DataFrame) -> dict[str, str]:
    failed = table[table["status"] == "error"]
    return dict(zip(failed["image_id"], failed["error"], strict=True))
