"""Classification of validation images while the model trains (paper appendix C)."""

import numpy as np

from diffdx._device import Precision
from diffdx._typing import Labels
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.rules import apply_rule
from diffdx.metrics.decisions import accuracy, balanced_accuracy, f1
from diffdx.metrics.ranking import auroc
from diffdx.training.images import ImageTable


def validation_subset(total: int, count: int, seed: int) -> Labels:
    """Return the indices of `count` images, the same at every validation; all if fewer."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def validate(
    model: DiffusionModel,
    images: ImageTable,
    *,
    num_trials: int,
    batch_size: int,
    device: str,
    precision: Precision,
) -> dict[str, float]:
    """Return accuracy, balanced accuracy, F1 and AUROC of the vote, and AUROC of the mean v error.

    The positive class is the model's; with more than two classes F1 and AUROC are macro averages.
    """
    results = denoising_errors(
        model.denoiser,
        model.schedule,
        images.x(),
        TrialBank(seed=0, size=num_trials),
        num_trials=num_trials,
        encode=model.transform.encode,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
    kept = list(results)
    errors = np.stack([r.errors for r in kept])
    logsnr = np.stack([r.logsnr for r in kept])
    y = images.labels
    vote, mean_v = (apply_rule(rule, errors, logsnr) for rule in ("vote", "mean_v"))
    num_classes = len(model.classes)
    positive = None if model.positive is None else model.classes.index(model.positive)
    return {
        "accuracy": accuracy(y, vote.y_hat),
        "balanced_accuracy": balanced_accuracy(y, vote.y_hat, num_classes=num_classes),
        "f1": f1(y, vote.y_hat, num_classes=num_classes, positive=positive),
        "auroc": auroc(y, vote.scores, positive=positive),
        "auroc_mean_v": auroc(y, mean_v.scores, positive=positive),
    }
