"""Classification of validation images while the model trains (paper appendix C)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from diffdx._device import Precision
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.rules import apply_rule
from diffdx.metrics.decisions import accuracy, balanced_accuracy, f1
from diffdx.metrics.ranking import auroc
from diffdx.training import ranks
from diffdx.training.images import ImageTable


def validation_subset(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the indices of `count` images, in the classes' proportions and at least one of each.

    The same images at every validation; all of them if there are no more.
    """
    totals, seen = Counter(labels), Counter[str]()
    places: dict[int, float] = {}
    for index in np.random.default_rng(seed).permutation(len(labels)).tolist():
        label = labels[index]
        # The first of a class comes before everything else.
        places[index] = seen[label] / totals[label]
        seen[label] += 1
    return sorted(sorted(places, key=lambda index: places[index])[:count])


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
    Processes that train together share the images.
    """
    mine = ranks.share(len(images))
    results = denoising_errors(
        model.denoiser,
        model.schedule,
        images.x(mine),
        TrialBank(seed=0, size=num_trials),
        num_trials=num_trials,
        encode=model.transform.encode,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
    kept = ranks.gathered(list(results))
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
