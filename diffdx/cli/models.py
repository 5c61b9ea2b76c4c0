"""A trained model of either kind: loaded, and put to work on images."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffdx.cli.console import Reporter

if TYPE_CHECKING:
    from diffdx.backbones.classifiers import Baseline
    from diffdx.backbones.model import DiffusionModel
    from diffdx.classification.engine import Engine
    from diffdx.classification.runner import ClassifyResult
    from diffdx.classification.settings import ClassifySettings
    from diffdx.classification.supervised import SupervisedSettings
    from diffdx.data.dataset import Dataset

    Model = DiffusionModel | Baseline

OF_TRIALS = (
    "trials",
    "bank",
    "rule",
    "space",
    "stop",
    "budget",
    "eliminate",
    "evidence",
    "shard",
    "deterministic",
    "engine",
    "actors",
    "actor_cores",
)
"""Parameters that mean something only where there are trials: not of a baseline."""


def load_model(run: Path) -> "Model":
    """Return the diffusion model or the baseline of a run or checkpoint folder.

    Raises:
        CheckpointError: if the folder has no model, or a damaged one.
    """
    from diffdx.backbones.classifiers import Baseline, is_baseline
    from diffdx.backbones.model import DiffusionModel

    return Baseline.load(run) if is_baseline(run) else DiffusionModel.load(run)


def classify_images(
    reporter: Reporter,
    model: "Model",
    dataset: "Dataset",
    folder: Path,
    settings: "ClassifySettings | SupervisedSettings",
    engine: "Engine | None" = None,
) -> "ClassifyResult":
    """Classify a dataset into a predictions folder, showing progress.

    Args:
        reporter: Where to show it.
        model: Of either kind.
        dataset: The images.
        folder: The predictions folder.
        settings: Of the model's kind.
        engine: Computes a diffusion model's errors; by default this process.
    """
    from diffdx.backbones.classifiers import Baseline
    from diffdx.classification.runner import classify_dataset
    from diffdx.classification.settings import ClassifySettings
    from diffdx.classification.supervised import SupervisedSettings, classify_supervised

    title = f"classifying {len(dataset)} images into {folder.name}"
    with reporter.working(), reporter.progress(title) as line:
        if isinstance(model, Baseline):
            assert isinstance(settings, SupervisedSettings)
            return classify_supervised(model, dataset, folder, settings, line.count)
        assert isinstance(settings, ClassifySettings)
        return classify_dataset(model, dataset, folder, settings, line.count, engine)
