"""The classifier as an object, in scikit-learn's manners.

    classifier = DiffusionClassifier.from_pretrained("runs/cxr", num_trials=101)
    classifier.predict(["a.png", "b.png"])      # array(["NORMAL", "PNEUMONIA"])

Research use only, not a medical device.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin

from diffdx._device import PrecisionOption, resolve_device, resolve_precision
from diffdx._typing import Errors, Labels, LogSNRs, Pixels, Space, VoteShare
from diffdx.backbones.model import DiffusionModel
from diffdx.classification import voting
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import (
    BatchSizeOption,
    denoising_errors,
    resolve_batch_size,
)
from diffdx.classification.predictions import Rule
from diffdx.data.images import read_image
from diffdx.errors import ConfigError, DataError

Names = Shaped[np.ndarray, "..."]
"""Class names, one for each class or image."""
ImageItem = str | Path | Shaped[np.ndarray, "..."]
ImageInput = Sequence[ImageItem] | Shaped[np.ndarray, "..."]
"""Paths, or decoded uint8 or uint16 images: a list of (H, W[, 3]), or an array (B, H, W[, 3])."""


class DiffusionClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies images by which class a diffusion model denoises them under best.

    Example:
        >>> classifier = DiffusionClassifier.from_pretrained("runs/cxr", num_trials=101)
        >>> classifier.predict(["xray.png"])
    """

    def __init__(
        self,
        model: DiffusionModel | None = None,
        *,
        run: str | Path | None = None,
        num_trials: int = 501,
        bank_size: int = 501,
        rule: Rule = "vote",
        space: Space = "v",
        seed: int = 0,
        batch_size: BatchSizeOption = "auto",
        device: str = "auto",
        precision: PrecisionOption = "auto",
    ) -> None:
        """Keep the parameters; the model is loaded, and everything checked, at the first use.

        Args:
            model: A trained model; or
            run: the run or checkpoint folder to load it from.
            num_trials: Trials per image, the first of the bank; odd, so that two classes cannot
                tie.
            bank_size: Trials in the bank.
            rule: `vote`, or `mean` of the error in `space`.
            space: `v`, `eps` or `x`; a vote is the same in each.
            seed: Seed of the trial bank.
            batch_size: Network rows per call, or `auto`.
            device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
            precision: `auto`, `fp32`, `bf16`, `fp16`.
        """
        self.model = model
        self.run = run
        self.num_trials = num_trials
        self.bank_size = bank_size
        self.rule = rule
        self.space = space
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    @classmethod
    def from_pretrained(cls, run: str | Path, **parameters: Any) -> "DiffusionClassifier":
        """Return a classifier with the model of a run folder or checkpoint folder, loaded now.

        Args:
            run: The folder.
            **parameters: As for the constructor.

        Raises:
            CheckpointError: if there is no usable model.
        """
        return cls(DiffusionModel.load(run), run=run, **parameters)

    @property
    def classes_(self) -> Names:
        """Class names; their order is that of the columns of `predict_proba`."""
        return np.array(self._loaded().classes)

    def errors(self, images: ImageInput) -> tuple[Errors, LogSNRs]:
        """Return (errors (B, K, N), log-SNR (B, N)): mean squared v errors (paper Eq. 4).

        Args:
            images: See `ImageInput`.

        Raises:
            DataError: if an image cannot be read or judged, or is neither uint8 nor uint16.
            ConfigError: if a parameter cannot be carried out.
        """
        if isinstance(images, str | Path):
            raise DataError(f"images is one path, {str(images)!r}; give a list of paths")
        model, bank = self._loaded(), TrialBank(self.seed, self.bank_size)
        device = resolve_device(self.device)
        x = (torch.from_numpy(model.preprocess(_pixels(item, i))) for i, item in enumerate(images))
        errors: list[Float[np.ndarray, "K N"]] = []
        logsnr: list[Float[np.ndarray, N]] = []
        for result in denoising_errors(
            model.to(device).denoiser,
            model.schedule,
            x,
            bank,
            num_trials=self.num_trials,
            encode=model.transform.encode,
            batch_size=resolve_batch_size(self.batch_size, device),
            device=device,
            precision=resolve_precision(self.precision, device),
        ):
            if result.failure is not None:
                raise DataError(f"images[{result.index}]: {result.failure}") from result.failure
            errors.append(result.errors)
            logsnr.append(result.logsnr)
        if not errors:
            raise DataError("images is empty; give at least one image")
        return np.stack(errors), np.stack(logsnr)

    def predict(self, images: ImageInput) -> Names:
        """Return the class name of each image by the rule; raises as `errors`.

        Args:
            images: See `ImageInput`.
        """
        names: Names = self.classes_[self._decide(*self.errors(images))]
        return names

    def predict_proba(self, images: ImageInput) -> VoteShare:
        """Return the vote shares (B, K), whatever the rule.

        They are effect sizes: calibrate them before reading them as probabilities.

        Args:
            images: See `ImageInput`.
        """
        return voting.vote_share(voting.majority_vote(self.errors(images)[0]))

    def _decide(self, errors: Errors, logsnr: LogSNRs) -> Labels:
        if self.rule == "vote":
            return voting.predict_vote(voting.majority_vote(errors))[0]
        if self.rule == "mean":
            return voting.predict_mean(voting.mean_error(errors, logsnr, self.space))[0]
        raise ConfigError(f"rule={self.rule!r} is unknown; use 'vote' or 'mean'")

    def _loaded(self) -> DiffusionModel:
        if self.model is None:
            if self.run is None:
                raise ConfigError(
                    "no model: give model=..., run=FOLDER, or use from_pretrained(FOLDER)"
                )
            self.model = DiffusionModel.load(self.run)
        return self.model

    def __sklearn_is_fitted__(self) -> bool:
        return self.model is not None or self.run is not None


def _pixels(item: ImageItem, index: int) -> Pixels:
    if isinstance(item, str | Path):
        return read_image(item)
    pixels = item
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"images[{index}] is {pixels.dtype}; give the stored pixels, not scaled: "
            "uint8 (0..255) or uint16 (0..65535)"
        )
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise DataError(f"images[{index}] has shape {pixels.shape}; give (H, W) or (H, W, 3)")
    return pixels
