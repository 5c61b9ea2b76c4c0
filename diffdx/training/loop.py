"""The training loop, for whatever model.

Step s (from 0) is a function of the weights and of (seed, s) alone: the images, their
augmentation and all else that is random come from generators seeded by them.
So a checkpoint is (step, weights, average, optimiser), and a resumed run is bit-equal on the CPU.
Several processes may share the work of a step, see `training.ranks`; the main one writes all files.
"""

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from diffdx._device import Precision, is_out_of_memory
from diffdx._files import write_json, write_text
from diffdx._interrupt import Interrupted, StopRequest
from diffdx._random import purpose_key
from diffdx._tensors import ClassIds, Images
from diffdx._typing import Labels
from diffdx.backbones.classifiers import Baseline
from diffdx.backbones.model import DiffusionModel
from diffdx.baseline_config import BaselineConfig
from diffdx.config import RunConfig
from diffdx.errors import ConfigError, TrainingError
from diffdx.training import ranks
from diffdx.training.batches import BatchOrder
from diffdx.training.budget import Budget, learning_rate
from diffdx.training.checkpoint import Progress, WeightAverage, load_checkpoint, save_checkpoint
from diffdx.training.images import ImageTable
from diffdx.training.style import style_strata

log = logging.getLogger(__name__)

LOG_EVERY = 25
"""Steps between two lines of metrics.jsonl; losses are averaged over them."""

ModelT = TypeVar("ModelT", bound=DiffusionModel | Baseline)
ConfigT = TypeVar("ConfigT", bound=RunConfig | BaselineConfig)


@dataclass(frozen=True)
class StepReport:
    """What a progress display needs after a step."""

    step: int
    fraction: float
    loss: float
    images_per_second: float


class TrainingLoop(ABC, Generic[ModelT, ConfigT]):
    """Trains one model on images held in memory and writes checkpoints and metrics to a run folder.

    Attributes:
        model: Raw weights, being trained.
        ema: Holds the averaged model, `ema.ema_model`, always in eval mode; the one to use.
        progress: Counters, saved in every checkpoint.
        chosen_by: The validation score that decides which checkpoint is best.
    """

    chosen_by: str

    def __init__(
        self,
        model: ModelT,
        images: ImageTable,
        config: ConfigT,
        run: Path,
        *,
        device: torch.device,
        precision: Precision,
        optimizer: torch.optim.Optimizer,
        ema: WeightAverage,
    ) -> None:
        """Take a model that is on its device and in train mode; nothing is written yet.

        Raises:
            ConfigError: if there are more processes than images in a batch: some would be idle.
        """
        train = config.train
        if train.batch_size < ranks.size():
            raise ConfigError(
                f"train.batch_size {train.batch_size} cannot be divided over {ranks.size()} "
                "processes; raise --batch-size or lower torchrun's --nproc_per_node"
            )
        self.config = config
        self.run = run
        self.images = images
        self.device = device
        self.precision = precision
        self.model = model
        self.optimizer = optimizer
        self.ema = ema
        self.budget = Budget.of(train)
        strata = style_strata(images) if train.balanced and train.balanced_style else None
        self.order = BatchOrder(
            images.labels, train.batch_size, config.seed, train.balanced, strata
        )
        self.progress = Progress()
        self.micro_batch = -(-train.batch_size // ranks.size())
        self._bad_in_a_row = 0
        self._losses: list[float] = []

    def resume(self) -> None:
        """Continue from the newest whole checkpoint of the run folder."""
        self.progress = load_checkpoint(self.run, self.model, self.optimizer, self.ema)
        if not ranks.is_main():
            return
        metrics = self.run / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        # A kill leaves lines of steps that will be done again, and perhaps half a line.
        kept = [line for line in lines if _logged_step(line) <= self.progress.step]
        write_text(metrics, "".join(line + "\n" for line in kept))

    def fit(
        self,
        *,
        stop: StopRequest,
        validate: Callable[[ModelT], dict[str, float]],
        on_step: Callable[[StepReport], None] = lambda report: None,
    ) -> None:
        """Train until the budget is spent; save and validate on the way and at the end.

        Args:
            stop: Asked after every step; if it was made, the run is saved and `Interrupted` raised.
            validate: Scores the averaged model; `chosen_by` decides which checkpoint is best.
            on_step: Told after every step.

        Raises:
            Interrupted: after a signal, with everything saved.
            TrainingError: if loss or gradient stays non-finite; the last checkpoint is kept.
        """
        every = self.config.train
        ranks.copy_from_main(list(self.model.state_dict().values()))
        while (fraction := self._fraction()) < 1:
            started = time.monotonic()
            loss = self.train_step(fraction)
            self.progress.seconds += time.monotonic() - started
            self._record(loss)
            step = self.progress.step
            on_step(StepReport(step, self._fraction(), loss, self._rate()))
            asked = self._agree(stop)
            if asked is not None:
                self._save(best=False)
                raise Interrupted(asked)
            at_end = self._fraction() >= 1
            if step % every.validate_every == 0 or at_end:
                self._save(best=self._validate(validate))
            elif step % every.checkpoint_every == 0:
                self._save(best=False)
        if self.progress.step == 0:
            self._save(best=True)  # a budget of no steps: the model as it came
        if self.progress.validated_step < self.progress.step:
            # A signal came at the last step: the run was saved, but not scored.
            self._save(best=self._validate(validate))

    def _agree(self, stop: StopRequest) -> int | None:
        """Set one time in all processes; return the signal that any of them got.

        They go on and end together: the learning rate may depend on the time.
        """
        self.progress.seconds, number = ranks.largest(
            self.progress.seconds, float(stop.signal_number or 0)
        )
        return int(number) or None

    def _fraction(self) -> float:
        return self.budget.fraction(self.progress.step, self.progress.seconds)

    def _rate(self) -> float:
        images = self.progress.step * self.config.train.batch_size
        return images / max(self.progress.seconds, 1e-9)

    def train_step(self, fraction: float = 0.0) -> float:
        """Do one optimiser step, or skip it if it is not finite; return the batch's mean loss."""
        train, step = self.config.train, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(train, step, fraction)
        batch = self.order.batch(step)
        generator = torch.Generator().manual_seed(
            purpose_key(self.config.seed, f"training step {step}")
        )
        x = self._inputs(batch, generator)
        y = torch.from_numpy(self.images.labels[batch])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate(x, y, generator)
        limit = train.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if math.isfinite(loss) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.ema.update()
            self._bad_in_a_row = 0
        else:
            self._skip(batch.tolist())
        self.progress.step += 1
        return loss

    def _inputs(self, batch: Labels, generator: torch.Generator) -> Images:
        return self._augmented(self.images.x(batch).to(self.device), generator)

    @abstractmethod
    def _augmented(self, x: Images, generator: torch.Generator) -> Images:
        """Return training images, each changed at random."""

    @abstractmethod
    def _losses_of(
        self, x: Images, y: ClassIds, generator: torch.Generator
    ) -> Callable[[slice], Tensor]:
        """Draw what is random; return what a part of the batch adds to its mean loss."""

    def _accumulate(self, x: Images, y: ClassIds, generator: torch.Generator) -> float:
        """Add the gradient of the batch's mean loss, in parts where memory is short; return it.

        All that is random is drawn for the whole batch, whichever rows this process works on.
        """
        part_loss = self._losses_of(x, y, generator)
        rows = ranks.share(len(x))
        total, done = 0.0, rows.start
        while done < rows.stop:
            try:
                loss = part_loss(slice(done, min(done + self.micro_batch, rows.stop)))
                torch.autograd.backward(loss)
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
                # Gradients of the failed part may be half added: start the batch again.
                self.optimizer.zero_grad(set_to_none=True)
                total, done = 0.0, rows.start
                continue
            total += loss.item()
            done += self.micro_batch
        return self._summed(total)

    def _summed(self, loss: float) -> float:
        """Add up gradients and loss over the processes; return the loss."""
        if ranks.size() == 1:
            return loss
        whole = torch.tensor(loss, device=self.device)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        ranks.add_up([*gradients, whole])
        return whole.item()

    def _halve(self, error: Exception) -> None:
        if not is_out_of_memory(error):
            raise error
        if self.micro_batch == 1:
            raise TrainingError(
                "out of memory with a single image; choose a smaller --image-size or --preset"
            ) from None
        self.micro_batch = -(-self.micro_batch // 2)
        log.warning("out of memory: the batch is now done in parts of %d images", self.micro_batch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _skip(self, batch: list[int]) -> None:
        self.progress.bad_steps += 1
        self._bad_in_a_row += 1
        step = self.progress.step
        log.warning("step %d skipped: loss or gradient is not finite", step + 1)
        if self._bad_in_a_row >= self.config.train.max_bad_steps:
            ids = [self.images.records[i].image_id for i in batch]
            dump = self.run / "bad_batch.json"
            if ranks.is_main():
                write_json(dump, {"step": step + 1, "image_ids": ids})
            raise TrainingError(
                f"loss or gradient was not finite {self._bad_in_a_row} steps in a row, up to step "
                f"{step + 1}; the last batch is listed in {dump}. The last checkpoint is kept: "
                "lower train.learning_rate or use --precision fp32, then --resume"
            )

    def _record(self, loss: float) -> None:
        self._losses.append(loss)
        step = self.progress.step
        if step % LOG_EVERY == 0:
            finite = [value for value in self._losses if math.isfinite(value)]
            self._write_metrics(
                {
                    "loss": sum(finite) / len(finite) if finite else None,
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "images_per_second": round(self._rate(), 2),
                }
            )
            self._losses.clear()

    def _validate(self, validate: Callable[[ModelT], dict[str, float]]) -> bool:
        """Score the averaged model; say whether it is the best so far (the later one if equal)."""
        scores = validate(self.ema.ema_model)
        self._write_metrics({"validation": scores})
        self.progress.validated_step = self.progress.step
        score = scores[self.chosen_by]
        if not score >= self.progress.best_score:
            return False
        self.progress.best_score, self.progress.best_step = score, self.progress.step
        return True

    def _save(self, *, best: bool) -> None:
        if ranks.is_main():
            save_checkpoint(
                self.run, self.model, self.optimizer, self.ema, self.progress, best=best
            )

    def _write_metrics(self, values: dict[str, object]) -> None:
        if not ranks.is_main():
            return
        step = self.progress.step
        line = {
            "step": step,
            "images_seen": step * self.config.train.batch_size,
            "seconds": round(self.progress.seconds, 1),
            **values,
        }
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
