"""The classifier as an object, in scikit-learn's manners.

    classifier = DiffusionClassifier.from_pretrained("runs/cxr", num_trials=101)
    classifier.predict(["a.png", "b.png"])      # array(["NORMAL", "PNEUMONIA"])

    classifier = DiffusionClassifier(preset="tiny", training={"train.minutes": 10})
    classifier.fit(images, labels, groups=patients).score(others, their_labels)

Research use only, not a medical device.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold

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
from diffdx.config import resolve_config
from diffdx.data.dataset import Dataset, MemorySource, Record
from diffdx.data.images import read_image
from diffdx.data.splits import COLUMNS, NO_PATIENTS
from diffdx.errors import ConfigError, DataError
from diffdx.training.images import detect_channels
from diffdx.training.run import TrainRequest, train

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
        preset: str = "small-patch",
        training: Mapping[str, Any] | None = None,
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
            run: the run or checkpoint folder to load it from; `fit` writes its run there.
            preset: What `fit` starts from.
            training: Settings of `fit` by their dotted names, as in `{"train.minutes": 40}`.
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
        self.preset = preset
        self.training = training
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

    def fit(
        self, images: ImageInput, y: Sequence[str] | Names, groups: Sequence[str] | None = None
    ) -> "DiffusionClassifier":
        """Train a model on labelled images and use it from then on.

        A tenth of the images, whole patients, chooses the checkpoint and is not trained on.

        Args:
            images: See `ImageInput`.
            y: Class name of each image.
            groups: Patient of each image; without it every image counts as its own patient.

        Raises:
            DataError: if an image cannot be used, a label is no text, or the lengths differ.
            ConfigError: if a setting is unknown, the length of the training is not given once, or
                the run folder holds something already.
        """
        dataset = _dataset(images, y, groups)
        config = resolve_config(
            self.preset,
            defaults={"model.data.channels": detect_channels(dataset)},
            options={"seed": self.seed, **(self.training or {})},
        )
        device = resolve_device(self.device)
        if self.run is not None and Path(self.run).exists() and any(Path(self.run).iterdir()):
            raise ConfigError(f"run={str(self.run)!r} is not empty; give another folder, or none")
        with TemporaryDirectory() as temporary:
            request = TrainRequest(
                dataset=dataset,
                splits=_train_and_val(dataset, config.seed),
                config=config,
                out=Path(self.run or temporary),
                device=device,
                precision=resolve_precision(self.precision, device),
                strict=True,
            )
            train(request)
            self.model_ = DiffusionModel.load(request.out)
        return self

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
        errors: list[np.ndarray] = []
        logsnr: list[np.ndarray] = []
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
        if not hasattr(self, "model_"):
            if self.model is None and self.run is None:
                raise ConfigError(
                    "no model: call fit, give model=... or run=FOLDER, "
                    "or use from_pretrained(FOLDER)"
                )
            self.model_ = self.model or DiffusionModel.load(str(self.run))
        return self.model_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_") or self.model is not None or self.run is not None


def _dataset(images: ImageInput, y: Sequence[str] | Names, groups: Sequence[str] | None) -> Dataset:
    """Return labelled images in memory as a dataset."""
    if not len(images) == len(y) == len(images if groups is None else groups):
        raise DataError(f"{len(images)} images, {len(y)} labels and their groups must be as many")
    if not all(isinstance(label, str) for label in y):
        raise DataError("y holds labels that are no text; give class names, as in 'NORMAL'")
    patients = [None] * len(y) if groups is None else [str(group) for group in groups]
    records = [
        Record(str(i), f"images[{i}]", str(label), patient)
        for i, (label, patient) in enumerate(zip(y, patients, strict=True))
    ]
    dataset = Dataset(
        name="images in memory",
        records=records,
        classes=tuple(sorted(set(map(str, y)))),
        positive=None,
        has_patients=groups is not None,
        warnings=[] if groups is not None else [NO_PATIENTS],
        source=MemorySource([_pixels(item, i) for i, item in enumerate(images)]),
    )
    dataset.require_trainable()
    return dataset


def _train_and_val(dataset: Dataset, seed: int) -> pd.DataFrame:
    """Return splits with a tenth of the images, whole patients, in the role `val`."""
    records = dataset.records
    labels = [r.label for r in records]
    groups = [r.patient_id or r.image_id for r in records]
    folds = min(10, len(set(groups)), *Counter(labels).values())
    divided = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    _, val = next(divided.split(np.zeros(len(records)), labels, groups))
    held_out = set(val.tolist())
    rows = [
        (r.image_id, r.path, r.label, r.patient_id, "val" if i in held_out else "train")
        for i, r in enumerate(records)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


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
