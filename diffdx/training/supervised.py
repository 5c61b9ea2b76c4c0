"""The training loop of the baselines: that of the diffusion models with another loss.

    loss = mean_n c(y_n) (-log softmax(logits(x_n))[y_n]),   c(k) = 1, or N / (K n_k) if weighted

There is no average of the weights; the checkpoint with the best validation F1 is kept (spec
section 8). Dropout inside a network is seeded by the step: a resumed run is bit-equal on the CPU.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffdx._device import Precision, autocast
from diffdx._random import purpose_key
from diffdx._tensors import ClassIds, Images
from diffdx.backbones.classifiers import Baseline
from diffdx.baseline_config import BaselineConfig
from diffdx.errors import ConfigError
from diffdx.metrics import accuracy, auroc, balanced_accuracy, f1
from diffdx.training import ranks
from diffdx.training.images import ImageTable
from diffdx.training.loop import TrainingLoop
from diffdx.transforms.augment import augment


class CurrentWeights:
    """Stands where a diffusion model's averaged weights are: the weights as they are now."""

    def __init__(self, model: Baseline) -> None:
        """Refer to the model; nothing is copied."""
        self.ema_model = model
        self.step = torch.tensor(0)
        self.initted = torch.tensor(True)

    def update(self) -> None:
        """Do nothing: there is no average."""


class SupervisedTrainer(TrainingLoop[Baseline, BaselineConfig]):
    """Trains one baseline; see `TrainingLoop` for the loop and its files."""

    chosen_by = "f1"

    def __init__(
        self,
        model: Baseline,
        images: ImageTable,
        config: BaselineConfig,
        run: Path,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        """Prepare the optimiser; nothing is written yet.

        Raises:
            ConfigError: under several processes: batch norm would see a part of each batch only.
        """
        if ranks.size() > 1:
            raise ConfigError("a baseline is trained by one process: start it without torchrun")
        train = config.train
        model = model.to(device).train()
        super().__init__(
            model,
            images,
            config,
            run,
            device=device,
            precision=precision,
            optimizer=torch.optim.Adam(
                model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
            ),
            ema=CurrentWeights(model),
        )
        self._class_weight = torch.from_numpy(
            class_weights(images.labels, len(model.classes)) if train.class_weighted_loss
            else np.ones(len(model.classes), dtype=np.float32)
        )  # fmt: skip

    def _fraction(self) -> float:
        """Return the share of the budget used; 1 once F1 has not improved for too long."""
        patience, progress = self.config.train.patience, self.progress
        if patience is not None:
            waited = progress.validated_step - progress.best_step
            if waited >= patience * self.config.train.validate_every:
                return 1.0
        return super()._fraction()

    def _augmented(self, x: Images, generator: torch.Generator) -> Images:
        return augment(x, self.config.train.augment, generator)

    def _losses_of(
        self, x: Images, y: ClassIds, generator: torch.Generator
    ) -> Callable[[slice], Tensor]:
        weight = self._class_weight[y].to(self.device)
        y = y.to(self.device)
        key = purpose_key(self.config.seed, f"dropout of step {self.progress.step}")
        devices = [self.device] if self.device.type == "cuda" else []

        def part_loss(part: slice) -> Tensor:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(key)
                with autocast(self.device, self.precision):
                    logits = self.model(x[part])
            loss = F.cross_entropy(logits, y[part], reduction="none")
            return (weight[part] * loss).sum() / len(x)

        return part_loss

    def _validate(self, validate: Callable[[Baseline], dict[str, float]]) -> bool:
        self.model.eval()
        try:
            return super()._validate(validate)
        finally:
            self.model.train()


def class_weights(labels: np.ndarray, num_classes: int) -> Float[np.ndarray, "K"]:
    """Return N / (K n_k) for each class: their mean over the images is 1; 0 for an absent class."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(
        len(labels), num_classes * counts, where=counts > 0, out=np.zeros(num_classes)
    )
    return weights.astype(np.float32)


def validate_supervised(
    model: Baseline, images: ImageTable, *, batch_size: int, precision: Precision
) -> dict[str, float]:
    """Return accuracy, balanced accuracy, F1, AUROC and cross-entropy of a model in eval mode.

    The positive class is the model's; with more than two classes F1 and AUROC are macro averages.
    """
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(images), batch_size):
        with autocast(device, precision):
            x = images.x(slice(start, start + batch_size)).to(device)
            parts.append(model.probabilities(x).double().cpu().numpy())
    prob, y = np.concatenate(parts), images.labels
    y_hat, num_classes = prob.argmax(axis=1), len(model.classes)
    positive = None if model.positive is None else model.classes.index(model.positive)
    own = prob[np.arange(len(y)), y]
    return {
        "accuracy": accuracy(y, y_hat),
        "balanced_accuracy": balanced_accuracy(y, y_hat, num_classes=num_classes),
        "f1": f1(y, y_hat, num_classes=num_classes, positive=positive),
        "auroc": auroc(y, prob, positive=positive),
        "log_loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
    }
