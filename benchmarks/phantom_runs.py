"""What the benchmarks on phantoms share: train by command, classify with evidence, score."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import running
import torch

from diffdx.backbones.classifiers import Baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.data.dataset import Dataset
from diffdx.explain.counterfactual import EditSettings
from diffdx.explain.explainer import Explainer, ExplainSettings
from diffdx.metrics import bootstrap_by_patient, patient_resamples

BATCH = 64
TINY = ("--preset", "tiny", "--recipe", "denoising")
"""The diffusion model of these benchmarks."""


def trained(command: Sequence[str], run: Path) -> dict[str, Any]:
    """Return the record of a run, trained by this `diffdx` command if it is not there yet."""
    running.train(run, *command)
    facts = json.loads((run / "run.json").read_text())
    names = ("train_seconds", "images_seen", "device", "precision", "threads", "model_sha256")
    told = " ".join(["diffdx", *command, "--out", str(run)]).replace(str(run.parent), "WORK")
    return {"command": told, **{name: facts[name] for name in names}}


def preprocessed(model: DiffusionModel | Baseline, dataset: Dataset) -> torch.Tensor:
    """Return all images in model range, (n, C, S, S)."""
    images = [model.preprocess(dataset.pixels(record)) for record in dataset.records]
    return torch.from_numpy(np.stack(images))


def classified(
    model: DiffusionModel, dataset: Dataset, num_trials: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return vote shares' and mean errors' raw material: errors (n, K, N), maps (n, K, H, W, 4).

    The maps are each class's mean squared v error, in parts by log-SNR from noisy to clean.
    """
    explainer = Explainer(model, ExplainSettings(0, EditSettings.of(model), num_trials=num_trials))
    judged = explainer.judge(list(preprocessed(model, dataset)))
    failures = [one for one in judged if isinstance(one, Exception)]
    if failures:
        raise failures[0]
    return np.stack([j.errors for j in judged]), np.stack([j.maps for j in judged])


def baseline_scores(model: Baseline, dataset: Dataset) -> np.ndarray:
    """Return the softmax of every image, (n, K)."""
    parts = preprocessed(model, dataset).split(BATCH)
    return torch.cat([model.probabilities(x) for x in parts]).numpy()


class Scored:
    """Means over images with their 95% interval by patient."""

    def __init__(self, dataset: Dataset) -> None:
        """Draw the resamples once, for every mean."""
        self.resamples = patient_resamples([str(r.patient_id) for r in dataset.records])

    def mean(self, values: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, float]:
        """Return the mean of the chosen images."""
        return self.quotient(values, np.ones(len(values)), chosen)

    def quotient(
        self, over: np.ndarray, under: np.ndarray, chosen: np.ndarray | None = None
    ) -> dict[str, float]:
        """Return the mean of one quantity by the mean of another, over the chosen images."""
        chosen = np.ones(len(over), dtype=bool) if chosen is None else chosen
        sums = np.stack([over * chosen, under * chosen])
        return self.metric(lambda w: float(np.divide(*(sums @ w))), int(chosen.sum()))

    def metric(self, metric: Any, n: int) -> dict[str, float]:
        """Return any metric of image weights."""
        interval = bootstrap_by_patient(metric, self.resamples)
        bounds = {"value": interval.value, "low": interval.low, "high": interval.high}
        return {name: round(value, 4) for name, value in bounds.items()} | {"n": n}
