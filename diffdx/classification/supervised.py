"""Classify a dataset with a discriminative baseline, into the same kind of predictions folder.

`predictions.parquet` and `.csv` have score_<class> (the softmax: no probability until it is
calibrated) in place of votes and mean errors, with `nfe` 1 and `trials_used` 0; `classify.json`
says `kind: baseline` and `rule: softmax`. There is no `errors.parquet`. It takes seconds, so a run
that was cut starts again. Research use only, not a medical device.
"""

import json
import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffdx._device import (
    Precision,
    PrecisionOption,
    autocast,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
)
from diffdx._files import exclusive, write_json
from diffdx._interrupt import stop_requests
from diffdx._notice import NOTICE
from diffdx.backbones.classifiers import KIND, Baseline
from diffdx.classification.predictions import CLASSIFY_FILE, softmax_table, write_predictions
from diffdx.classification.reading import inputs_hash, read_ahead, reason
from diffdx.classification.runner import ClassifyResult, Progress
from diffdx.classification.store import ERRORS_FILE, PARTS_FOLDER
from diffdx.data.dataset import Dataset
from diffdx.errors import ConfigError

RULE = "softmax"
BATCH_SIZE = 64

Scores = Float[np.ndarray, "B K"]


@dataclass(frozen=True)
class SupervisedSettings:
    """How a run classifies.

    Attributes:
        batch_size: Images in a network call; `auto` is 64.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: Of network calls.
        strict: Stop at the first image that cannot be read.
        overwrite: Replace an earlier run in the folder.
    """

    batch_size: int | str = "auto"
    device: str = "auto"
    precision: PrecisionOption = "auto"
    strict: bool = False
    overwrite: bool = False


def classify_supervised(
    model: Baseline,
    dataset: Dataset,
    folder: Path,
    settings: SupervisedSettings,
    progress: Progress | None = None,
) -> ClassifyResult:
    """Classify every image of a dataset, write the predictions folder and return its table.

    Args:
        model: Moved to the device of the settings.
        dataset: Where images and labels come from.
        folder: The predictions folder; the same run may be written there again.
        settings: How.
        progress: Called with (images done, images in all) after each batch.

    Raises:
        ConfigError: if the folder holds another run.
        Interrupted: after SIGINT or SIGTERM; nothing is written.
        DataError: under `strict`, for the first image that cannot be read.
    """
    started = time.perf_counter()
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    keep_freed_memory()
    identity = {"kind": KIND, "model_sha256": model.sha256, "inputs": inputs_hash(dataset)}
    batch_size = BATCH_SIZE if settings.batch_size == "auto" else int(settings.batch_size)
    with exclusive(folder):
        _make_room(folder, identity, overwrite=settings.overwrite)
        model = model.to(device).eval()
        ids, scores, failures = _scores(
            model,
            dataset,
            batch_size,
            precision,
            strict=settings.strict,
            progress=progress or (lambda done, total: None),
        )
        table = softmax_table(dataset.records, model.classes, ids, scores, failures)
        write_predictions(table, folder)
        seconds = time.perf_counter() - started
        info = {
            "notice": NOTICE,
            **identity,
            "classes": list(model.classes),
            "positive": model.positive,
            "architecture": model.config.architecture,
            "pretrained": model.config.pretrained,
            "rule": RULE,
            # What a diffusion run's trials are decided by, and a single evaluation is not.
            **dict.fromkeys(("space", "trials", "bank", "stop", "seed", "ties")),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "precision": precision,
            "batch_size": batch_size,
            "warnings": list(dict.fromkeys([*model.warnings, *dataset.warnings])),
            "n": len(dataset),
            "n_failed": len(failures),
            "seconds": round(seconds, 3),
            "images_per_second": round(len(ids) / seconds, 4) if ids else None,
        }
        write_json(folder / CLASSIFY_FILE, info)
    return ClassifyResult(folder, table, len(failures), 0, info)


def _scores(
    model: Baseline,
    dataset: Dataset,
    batch_size: int,
    precision: Precision,
    *,
    strict: bool,
    progress: Progress,
) -> tuple[list[str], Scores, dict[str, str]]:
    """Return ids and softmax of the readable images, and why the others could not be read."""
    device = next(model.parameters()).device
    failures: dict[str, str] = {}
    ids: list[str] = []
    parts = [np.empty((0, len(model.classes)))]
    done = 0
    with stop_requests() as stop:
        read = read_ahead(dataset, dataset.records, model.preprocess, stop)
        images = zip(dataset.records, read, strict=False)
        while batch := list(islice(images, batch_size)):
            good = []
            for record, image in batch:
                if isinstance(image, Tensor):
                    ids.append(record.image_id)
                    good.append(image)
                elif strict:
                    raise image
                else:
                    failures[record.image_id] = reason(image)
            if good:
                with autocast(device, precision):
                    softmax = model.probabilities(torch.stack(good).to(device))
                parts.append(softmax.double().cpu().numpy())
            done += len(batch)
            progress(done, len(dataset))
        if done < len(dataset):
            stop.raise_if_made()
    return ids, np.concatenate(parts), failures


def _make_room(folder: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Check that the folder holds no other run, or remove what another left if that was asked for.

    Raises:
        ConfigError: if it does: its files would be mixed.
    """
    if overwrite:
        for name in (ERRORS_FILE, CLASSIFY_FILE, "calibration.json", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)
        return
    path = folder / CLASSIFY_FILE
    before: dict[str, Any] = {}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
    has_errors = (folder / ERRORS_FILE).exists() or (folder / PARTS_FOLDER).exists()
    changed = [name for name in identity if before and before.get(name) != identity[name]]
    if has_errors or changed:
        what = "denoising errors" if has_errors else f"another run ({', '.join(changed)})"
        raise ConfigError(f"{folder} holds {what}; choose another --out, or --overwrite")
