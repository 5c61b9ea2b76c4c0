"""What a predictions folder knows already of the images to explain: errors and evidence maps."""

from pathlib import Path
from typing import Any

from diffdx.backbones.model import DiffusionModel
from diffdx.classification.evidence_store import EvidenceStore
from diffdx.classification.replay import facts_of
from diffdx.classification.store import ERRORS_FILE, read_errors
from diffdx.classification.weighted import LogSNRWeights
from diffdx.errors import ConfigError, DataError
from diffdx.explain.explainer import Judged


class Predicted:
    """The classifications of a folder made with `--evidence`.

    Attributes:
        facts: Its `classify.json`.
    """

    def __init__(self, folder: Path, model: DiffusionModel) -> None:
        """Read the errors; maps are read image by image.

        Raises:
            ConfigError: if another model made them.
            DataError: if the folder has no errors or no maps.
        """
        self.facts: dict[str, Any] = facts_of(folder)
        if self.facts["model_sha256"] != model.sha256:
            raise ConfigError(
                f"{folder} was made by another model; name a folder of this one, "
                "or leave out --predictions"
            )
        ids, errors, logsnr = read_errors(folder / ERRORS_FILE, model.classes)
        self._found = {image_id: (errors[i], logsnr[i]) for i, image_id in enumerate(ids)}
        self._maps = EvidenceStore(folder)

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of `ExplainSettings` that say how it classified."""
        facts, weights = self.facts, self.facts["weights"]
        return {
            "num_trials": facts["trials"],
            "bank_size": facts["bank"],
            "rule": facts["rule"],
            "space": facts["space"],
            "weights": None if weights is None else LogSNRWeights.from_dict(weights),
        }

    def judged(self, image_id: str) -> Judged | Exception:
        """Return the classification of an image at no cost, or the error that it is not there."""
        if image_id not in self._found:
            return DataError("the predictions folder has no errors of this image; classify it")
        try:
            return Judged(*self._found[image_id], self._maps.read(image_id), nfe=0)
        except DataError as error:
            return error
