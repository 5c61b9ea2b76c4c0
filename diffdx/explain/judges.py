"""Who says whether an edit flipped: another classifier, or the diffusion classifier itself."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from diffdx.backbones.classifiers import Baseline, is_baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.errors import ConfigError
from diffdx.transforms.pixels import to_uint8

Pictures = Float[np.ndarray, "B C H W"]
ClassScores = Float[np.ndarray, "B K"]


class BaselineJudge:
    """A baseline that looks at edited images as if they were saved as 8-bit pictures.

    Attributes:
        sha256: Hash of its weights.
    """

    def __init__(self, run: Path, model: DiffusionModel) -> None:
        """Load the baseline of a run, onto the device of the model.

        Raises:
            ConfigError: if the run is no baseline, or knows other classes than the model.
        """
        if not is_baseline(run):
            raise ConfigError(
                f"--judge {run}: the judge must have had no part in the explanation; "
                "name a run of 'diffdx baseline' trained on the same split"
            )
        self._device = next(model.parameters()).device
        self._baseline = Baseline.load(run).to(self._device)
        self.sha256 = self._baseline.sha256
        if sorted(self._baseline.classes) != sorted(model.classes):
            raise ConfigError(
                f"--judge {run} knows {', '.join(self._baseline.classes)}, the model "
                f"{', '.join(model.classes)}; train the judge on the same classes"
            )
        self._order = [self._baseline.classes.index(name) for name in model.classes]

    def __call__(self, pictures: Pictures) -> ClassScores:
        """Return probabilities in the order of the model's classes."""
        scores: ClassScores = self._baseline.probabilities(self._seen(pictures)).cpu().numpy()
        return scores[:, self._order]

    def features(self, pictures: Pictures) -> Float[np.ndarray, "B d"]:
        """Return the features that its last layer separates."""
        with torch.no_grad():
            features: Float[np.ndarray, "B d"] = (
                self._baseline.features(self._seen(pictures)).cpu().numpy()
            )
        return features

    def _seen(self, pictures: Pictures) -> torch.Tensor:
        stored = np.moveaxis(to_uint8(pictures), 1, -1)
        grey = stored[..., 0] if stored.shape[-1] == 1 else stored
        seen = np.stack([self._baseline.preprocess(one) for one in grey])
        return torch.from_numpy(seen).to(self._device)


class RememberedJudge:
    """The diffusion classifier's own judgement of images that it has classified already."""

    def __init__(self, num_classes: int) -> None:
        """Start without any."""
        self._num_classes = num_classes
        self._known: dict[bytes, int] = {}

    def remember(self, picture: Float[np.ndarray, "C H W"], y_hat: int) -> None:
        """Keep what an image was called."""
        self._known[picture.tobytes()] = y_hat

    def __call__(self, pictures: Pictures) -> ClassScores:
        """Return one for the class that each image was called, 0 for the others."""
        return np.eye(self._num_classes)[[self._known[p.tobytes()] for p in pictures]]
