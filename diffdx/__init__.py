"""diffdx: class-conditional diffusion models as medical image classifiers.

They also say how sure they are and show why. Research use only, not a medical device.
Importing this package loads nothing heavy: a public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdx.backbones.model import DiffusionModel as DiffusionModel
    from diffdx.classification.bank import TrialBank as TrialBank
    from diffdx.classification.denoising_errors import denoising_errors as denoising_errors
    from diffdx.classification.voting import majority_vote as majority_vote
    from diffdx.classification.voting import mean_error as mean_error
    from diffdx.classification.voting import vote_entropy as vote_entropy
    from diffdx.classification.voting import vote_share as vote_share
    from diffdx.classifier import DiffusionClassifier as DiffusionClassifier
    from diffdx.data.readers import open_dataset as open_dataset
    from diffdx.data.splits import make_splits as make_splits
    from diffdx.diffusion.schedule import ShiftedCosine as ShiftedCosine
    from diffdx.evaluation.summary import evaluate_predictions as evaluate_predictions
    from diffdx.explain.counterfactual import EditSettings as EditSettings
    from diffdx.explain.counterfactual import counterfactuals as counterfactuals

_HOME = {
    "DiffusionClassifier": "diffdx.classifier",
    "DiffusionModel": "diffdx.backbones.model",
    "ShiftedCosine": "diffdx.diffusion.schedule",
    "TrialBank": "diffdx.classification.bank",
    "EditSettings": "diffdx.explain.counterfactual",
    "counterfactuals": "diffdx.explain.counterfactual",
    "denoising_errors": "diffdx.classification.denoising_errors",
    "evaluate_predictions": "diffdx.evaluation.summary",
    "majority_vote": "diffdx.classification.voting",
    "make_splits": "diffdx.data.splits",
    "mean_error": "diffdx.classification.voting",
    "open_dataset": "diffdx.data.readers",
    "vote_entropy": "diffdx.classification.voting",
    "vote_share": "diffdx.classification.voting",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'diffdx' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
