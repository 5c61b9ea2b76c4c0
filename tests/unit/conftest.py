"""A predictions folder in the format of the command-line contract, built without any command."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


def simulated_errors(
    y: np.ndarray, *, num_classes: int = 2, num_trials: int = 21, effect: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Errors (B, K, N), under the true class `effect` standard deviations smaller, and log-SNRs."""
    rng = np.random.default_rng(seed)
    logsnr = rng.uniform(-8, 8, size=(len(y), num_trials)).astype(np.float32)
    noise = 0.02 * rng.standard_normal((len(y), num_classes, num_trials))
    own = np.eye(num_classes)[y][:, :, None]
    return (1 + noise - 0.02 * effect * own).astype(np.float32), logsnr


@pytest.fixture
def predictions_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a folder for given labels (None = unlabelled)."""

    def make(
        labels: Sequence[str | None],
        *,
        classes: Sequence[str] = ("NORMAL", "PNEUMONIA"),
        errors: tuple[np.ndarray, np.ndarray] | None = None,
        patient_ids: Sequence[str | None] | None = None,
        failed: int = 0,
        **settings: Any,
    ) -> Path:
        folder = tmp_path / "out"
        folder.mkdir()
        n = len(labels)
        y = np.array(
            [0 if name is None else list(classes).index(name) for name in labels], dtype=int
        )
        values, logsnr = simulated_errors(y, num_classes=len(classes)) if errors is None else errors
        num_trials = values.shape[2]
        image_ids = [f"i{i:03d}" for i in range(n)]
        rows = {
            "image_id": np.repeat(image_ids, num_trials),
            "trial": np.tile(np.arange(num_trials), n).astype(np.int16),
        }
        rows["logsnr"] = logsnr.ravel()
        rows |= {f"error_{name}": values[:, k].ravel() for k, name in enumerate(classes)}
        pd.DataFrame(rows).to_parquet(folder / "errors.parquet", index=False)
        wins = np.stack(
            [(values.argmin(axis=1) == k).mean(axis=1) for k in range(len(classes))], axis=1
        )
        table = pd.DataFrame(
            {
                "image_id": image_ids,
                "path": [f"{image}.png" for image in image_ids],
                "patient_id": [f"p{i // 2}" for i in range(n)]
                if patient_ids is None
                else list(patient_ids),
                "label": list(labels),
                "prediction": [classes[k] for k in wins.argmax(axis=1)],
                **{f"vote_share_{name}": wins[:, k] for k, name in enumerate(classes)},
                "nfe": num_trials * len(classes),
                "status": "ok",
            }
        )
        broken = [
            {"image_id": f"f{i}", "path": f"f{i}.png", "nfe": 0, "status": "error"}
            for i in range(failed)
        ]
        table = pd.concat([table, pd.DataFrame(broken)]) if failed else table
        table.to_parquet(folder / "predictions.parquet", index=False)
        made: dict[str, Any] = {
            "classes": list(classes),
            "positive": classes[-1] if len(classes) == 2 else None,
            "rule": "vote",
            "space": "v",
            "trials": num_trials,
            "bank": 501,
            "stop": "none",
            "seed": 0,
            "ties": "split",
            "device": "cpu",
            "precision": "fp32",
            "seconds": 12.5,
            "images_per_second": n / 12.5,
            "model_sha256": "ab" * 32,
            "warnings": [],
        }
        (folder / "classify.json").write_text(json.dumps(made | settings))
        return folder

    return make


@pytest.fixture
def mixed_labels() -> list[str]:
    """Forty images of two classes, two of each patient."""
    return [
        "NORMAL",
        "NORMAL",
        "PNEUMONIA",
        "PNEUMONIA",
        "PNEUMONIA",
        "PNEUMONIA",
        "NORMAL",
        "NORMAL",
    ] * 5
