"""The queue of (image, trial) pairs: which come next, and when an image is done.

Batches are filled from as many images as they take. Without anything that may end an image early,
an image hands out all its trials at once. Otherwise it hands out the trials before which no rule
could stop it, and then one a batch, so that nothing is computed in vain: other images fill the
batch. Only when no new image is left does an image run ahead, by an eighth of what it has done.
What lies beyond its end is discarded, so a result never depends on how the batches were cut.

Images leave in the order in which they came. One that is done and waits for its turn keeps nothing
but its errors.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffdx.classification.stopping import Elimination, StoppingRule
from diffdx.errors import DataError

NOT_STOPPED, OUT_OF_TIME = "none", "budget"


@dataclass
class ImageErrors:
    """The errors of one image, or why there are none.

    Attributes:
        index: Position of the image in the stream.
        errors: (K, N) float32, mean squared v errors; NaN under every class in the trials after the
            image's end, `inf` where its class had been eliminated; empty after a failure.
        logsnr: (N,) float32, in nats.
        failure: None, or the error that kept the image from being judged.
        stopped_by: `none` if every trial was run; else the name of the rule that ended it, or
            `budget` if its time was up.
        calls: Network evaluations made for it, those that were discarded included.
    """

    index: int
    errors: Float[np.ndarray, "K N"]
    logsnr: Float[np.ndarray, "N"]
    failure: Exception | None = None
    stopped_by: str = NOT_STOPPED
    calls: int = 0


@dataclass
class OpenImage:
    """An image in the queue: its constants, and how far it is."""

    result: ImageErrors
    key: int = 0
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    handed_out: int = 0
    """Trials given to a batch; the first of them are done."""
    done: int = 0
    seconds: float = 0.0
    """Its share of the time of its batches."""
    live: Bool[np.ndarray, "K"] = field(init=False)
    """Classes not eliminated."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.live = np.ones(len(self.result.errors), dtype=bool)
        self.closed = self.result.failure is not None

    @property
    def num_trials(self) -> int:
        """Trials that it has in all."""
        return len(self.result.logsnr)

    def close(self, trials: int, stopped_by: str) -> None:
        """End the image after its first `trials` trials and forget what lies beyond."""
        self.result.errors[:, trials:] = np.nan
        self.result.stopped_by = stopped_by
        self.closed = True
        self.x = torch.empty(0)


Pair = tuple[OpenImage, int]


@dataclass(frozen=True)
class Ending:
    """What may end an image before its last trial.

    Attributes:
        stop: Stopping rule; None runs all trials.
        elimination: Drops hopeless classes; None keeps all.
        budget_seconds: Time of an image; one trial is always run.
    """

    stop: StoppingRule | None = None
    elimination: Elimination | None = None
    budget_seconds: float | None = None

    @property
    def never(self) -> bool:
        """Whether every image runs all its trials under all classes."""
        return self.stop is None and self.elimination is None and self.budget_seconds is None

    def settle(self, image: OpenImage) -> None:
        """Close the image if what is known of it says so."""
        n, result = image.done, image.result
        errors = result.errors[:, :n]
        bad = ~np.isfinite(errors[image.live]).all(axis=0)
        if bad.any():
            result.failure = _not_finite(int(bad.sum()), n)
            image.close(0, NOT_STOPPED)
            return
        ends = [(n, NOT_STOPPED)] if n == image.num_trials else []
        alone = None
        if self.elimination is not None:
            dropped_after, alone = self.elimination.apply(errors)
            image.live = dropped_after >= n
        if self.stop is not None:
            trials = self.stop.stopping_time(errors, result.logsnr[:n])
            ends += [] if trials is None else [(trials, self.stop.name)]
        if self.elimination is not None and alone is not None:
            # Where a stop falls on the last competitor's trial, the stop is named.
            ends.append((alone, self.elimination.name))
        if self.budget_seconds is not None and image.seconds >= self.budget_seconds:
            ends.append((n, OUT_OF_TIME))
        if ends:
            image.close(*min(ends, key=lambda end: end[0]))

    def ready(self, image: OpenImage, seconds_per_row: float | None) -> int:
        """Return how many more trials the image may hand out without risk of running one in vain.

        Args:
            image: Not closed.
            seconds_per_row: What a network row has cost so far, None if nothing has run.
        """
        if self.never:
            return image.num_trials - image.handed_out
        rules = [rule for rule in (self.stop, self.elimination) if rule is not None]
        sure = min([image.num_trials, *(rule.first_trials for rule in rules)])
        if self.budget_seconds is not None:
            left = self.budget_seconds - image.seconds
            affordable = left / (seconds_per_row * image.live.sum()) if seconds_per_row else 1
            sure = min(sure, image.done + int(affordable))
        return min(max(sure, image.done + 1), image.num_trials) - image.handed_out


ALL_TRIALS = Ending()
"""Nothing ends an image early."""


class WorkQueue:
    """Hands out batches of pairs and takes back what is known of their images."""

    def __init__(
        self, arrivals: Iterator[OpenImage], ending: Ending, *, rows: int, one_image: bool
    ) -> None:
        """Start with no image open.

        Args:
            arrivals: The images, opened one by one as batches have room.
            ending: When an image is done.
            rows: Network rows (image x trial x class) of a batch.
            one_image: Fill a batch from one image only, whatever of it is in vain.
        """
        self._arrivals, self._ending = arrivals, ending
        self._rows, self._one_image = rows, one_image
        self._waiting: deque[OpenImage] = deque()
        self._open: list[OpenImage] = []
        self._seconds, self._rows_done = 0.0, 0

    def next_batch(self) -> list[Pair]:
        """Return the next batch; empty when no work is left."""
        batch = _Batch(self._rows)
        cost = self._seconds / self._rows_done if self._rows_done else None
        for image in chain(tuple(self._open), self._arriving()):
            if self._one_image:
                batch.take(image, image.num_trials, self._rows_of(image))
                return batch.pairs
            batch.take(image, self._ending.ready(image, cost), self._rows_of(image))
            if batch.full:
                return batch.pairs
        if not self._ending.never:
            for image in self._open:
                ahead = image.handed_out - image.done - 1
                batch.take(image, image.done // 8 - ahead, self._rows_of(image))
        return batch.pairs

    def settle(self, pairs: list[Pair], seconds: float) -> None:
        """Take in a batch that has run: its errors are in its images' results."""
        rows = sum(self._rows_of(image) for image, _ in pairs)
        self._seconds, self._rows_done = self._seconds + seconds, self._rows_done + rows
        for image, trial in pairs:
            image.done = trial + 1
            image.result.calls += self._rows_of(image)
            image.seconds += seconds * self._rows_of(image) / rows
        for image in {id(image): image for image, _ in pairs}.values():
            self._ending.settle(image)
        self._open = [image for image in self._open if not image.closed]

    def _arriving(self) -> Iterator[OpenImage]:
        """Open new images one by one; those that failed are closed already."""
        for image in self._arrivals:
            self._waiting.append(image)
            if not image.closed:
                self._open.append(image)
                yield image

    def _rows_of(self, image: OpenImage) -> int:
        """Network rows of one trial of the image."""
        return len(image.live) if self._one_image else int(image.live.sum())

    def finished(self) -> Iterator[ImageErrors]:
        """Yield the results that are due: of closed images before which none is open."""
        while self._waiting and self._waiting[0].closed:
            yield self._waiting.popleft().result


@dataclass
class _Batch:
    """Pairs of one batch; the first always fits."""

    room: int
    pairs: list[Pair] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return self.room <= 0

    def take(self, image: OpenImage, wanted: int, cost: int) -> None:
        """Add the next `wanted` trials of the image, `cost` rows each, as far as there is room."""
        for trial in range(image.handed_out, min(image.handed_out + wanted, image.num_trials)):
            if self.pairs and cost > self.room:
                self.room = 0
                return
            self.pairs.append((image, trial))
            image.handed_out += 1
            self.room -= cost


def _not_finite(bad: int, trials: int) -> DataError:
    return DataError(
        f"the denoising error is not finite in {bad} of {trials} trials: the image or the model "
        "holds NaN or overflows; check the checkpoint, or use --precision fp32"
    )
