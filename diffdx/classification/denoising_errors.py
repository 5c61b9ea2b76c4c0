"""Denoising errors of images x classes x trials: the one place that calls a network here.

For image b, class k and trial n, with one z_t shared by all classes (paper Eq. 4, spec section 3):

    z_t = alpha_n x_b + sigma_n eps_n            v = alpha_n eps_n - sigma_n x_b
    errors[b, k, n] = mean over channels and pixels of (v_hat(z_t, logsnr_n, k) - v)^2

x_b is in the network's own coordinates (wavelet bands at unit variance), t_n and eps_n come from
the image's trial bank.

The work is a queue of (image, trial) pairs. Each batch takes as many pairs as fit, from as many
images as it needs, and expands them over the K classes, so batches are full until the last one,
whatever the number of images, classes and trials. Images are read as the queue reaches them and
leave when their last trial is done: memory does not grow with the dataset. log-SNR, z_t and the
errors are float32; `precision` concerns the network alone.

The result depends on the batch only through rounding (about 1e-6 relative in float32). With
`deterministic` a batch holds trials of one image only, in a fixed number of rows, and the result
does not depend on it at all.
"""

import copy
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdx._device import AUTOCAST_DTYPE, Precision, autocast, is_out_of_memory
from diffdx._tensors import ClassIds, Images, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.classification.bank import TrialBank
from diffdx.diffusion.process import diffuse, v_target
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import ConfigError, DataError

log = logging.getLogger(__name__)

# Rows of a deterministic batch: never depends on --batch-size, so that changing it changes nothing.
_DETERMINISTIC_ROWS = 64


@dataclass
class ImageErrors:
    """The errors of one image, or why there are none.

    Attributes:
        index: Position of the image in the stream.
        errors: (K, N) float32, mean squared v errors; empty after a failure.
        logsnr: (N,) float32, in nats.
        failure: None, or the error that kept the image from being judged.
    """

    index: int
    errors: Float[np.ndarray, "K N"]
    logsnr: Float[np.ndarray, "N"]
    failure: Exception | None = None


@dataclass
class _OpenImage:
    """An image in the queue: its constants, and how many of its trials are still to come."""

    result: ImageErrors
    remaining: int = 0
    key: int = 0
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    logsnr: Tensor = field(default_factory=lambda: torch.empty(0))


_Pairs = list[tuple[_OpenImage, int]]
BatchSizeOption = int | Literal["auto"]


def resolve_batch_size(option: BatchSizeOption, device: torch.device) -> int:
    """Return the network rows per call; `auto` is 64, on a GPU 512 (halved where memory runs out).

    Raises:
        ConfigError: if it is not positive.
    """
    if option == "auto":
        return 512 if device.type == "cuda" else 64
    if option < 1:
        raise ConfigError(f"--batch-size {option}: use auto or a number of at least 1")
    return option


def denoising_errors(
    denoiser: Denoiser,
    schedule: ShiftedCosine,
    images: Iterable[Tensor | Exception],
    bank: TrialBank,
    *,
    num_trials: int,
    encode: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    deterministic: bool = False,
) -> Iterator[ImageErrors]:
    """Yield the errors of each image as its last trial is done, in the order of the stream.

    errors[k, n] = mean((v_hat(z_t, logsnr_n, k) - v)^2)        (paper Eq. 4, in v space: spec
    section 3)

    Between results the caller's gradient mode, train/eval mode and random state are as it left
    them.

    Args:
        denoiser: The network, already on `device`; all its classes are tried.
        schedule: Turns the bank's times into log-SNR.
        images: Preprocessed images (C, H, W) in [-1, 1], read one by one as needed; an exception in
            place of an image comes back as that image's failure.
        bank: Times and noises.
        num_trials: N, the first trials of the bank.
        encode: Takes (B, C, H, W) to the network's coordinates; None if they are the image's own.
        batch_size: Rows (image x trial x class) per network call; halved, and logged, where memory
            runs out.
        device: Where to compute.
        precision: Of the network: `fp32`, or autocast to `bf16` or `fp16`.
        deterministic: Make the result independent, to the byte, of batch size, order and the other
            images.

    Raises:
        ConfigError: if the bank is shorter than `num_trials`.
    """
    bank.require(num_trials)
    evaluator = _Evaluator(
        denoiser, bank, batch_size, torch.device(device), precision, deterministic
    )
    waiting: deque[_OpenImage] = deque()

    def arrivals() -> Iterator[_OpenImage]:
        for index, item in enumerate(images):
            waiting.append(_open(index, item, evaluator, schedule, num_trials, encode))
            yield waiting[-1]

    def results() -> Iterator[ImageErrors]:
        for pairs in _batches(arrivals(), evaluator.num_pairs, across_images=not deterministic):
            evaluator.run(pairs)
            while waiting and waiting[0].remaining == 0:
                yield _closed(waiting.popleft().result)
        yield from (_closed(image.result) for image in waiting)

    return results()


def _open(
    index: int,
    item: Tensor | Exception,
    evaluator: "_Evaluator",
    schedule: ShiftedCosine,
    num_trials: int,
    encode: Callable[[Tensor], Tensor] | None,
) -> _OpenImage:
    num_classes = evaluator.denoiser.num_classes
    if isinstance(item, Exception):
        nothing = np.empty((num_classes, 0), np.float32), np.empty(0, np.float32)
        return _OpenImage(ImageErrors(index, *nothing, failure=item))
    key = evaluator.bank.key(item)
    logsnr = schedule.logsnr(evaluator.bank.times(torch.tensor([key]))[0, :num_trials])
    with torch.no_grad():
        x = item.to(evaluator.device, torch.float32)
        x = x if encode is None else encode(x[None])[0]
    errors = np.full((num_classes, num_trials), np.nan, np.float32)
    return _OpenImage(ImageErrors(index, errors, logsnr.numpy()), num_trials, key, x, logsnr)


def _closed(result: ImageErrors) -> ImageErrors:
    """Turn an image whose errors are not all finite into a failure: such a trial has no vote."""
    bad = ~np.isfinite(result.errors).all(axis=0)
    if result.failure is None and bad.any():
        result.failure = DataError(
            f"the denoising error is not finite in {bad.sum()} of {bad.size} trials: the image or "
            "the model holds NaN or overflows; check the checkpoint, or use --precision fp32"
        )
    return result


def _batches(
    arrivals: Iterator[_OpenImage], num_pairs: int, *, across_images: bool
) -> Iterator[_Pairs]:
    """Cut the queue of (image, trial) pairs into batches; images that failed have no pairs."""
    batch: _Pairs = []
    for image in arrivals:
        for trial in range(image.remaining):
            batch.append((image, trial))
            if len(batch) == num_pairs:
                yield batch
                batch = []
        if batch and not across_images:
            yield batch
            batch = []
    if batch:
        yield batch


def in_precision(denoiser: Denoiser, precision: Precision) -> Denoiser:
    """Return the denoiser with its matrix weights already rounded to the precision of its calls.

    Autocast would round them anew in every call, which costs a small network a tenth of its time.
    The caller's network is left as it is.
    """
    if precision == "fp32":
        return denoiser
    rounded = copy.deepcopy(denoiser)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(AUTOCAST_DTYPE[precision])
    return rounded


class _Evaluator:
    """Runs batches of (image, trial) pairs through the network and files their errors."""

    def __init__(
        self,
        denoiser: Denoiser,
        bank: TrialBank,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        deterministic: bool,
    ) -> None:
        self.denoiser, self.bank, self.device = in_precision(denoiser, precision), bank, device
        self.precision, self.deterministic = precision, deterministic
        self.rows_per_call = _DETERMINISTIC_ROWS if deterministic else batch_size
        self.num_pairs = max(1, self.rows_per_call // denoiser.num_classes)

    def run(self, pairs: _Pairs) -> None:
        """Compute each pair's errors under every class and write them into the images' results."""
        # Padding repeats the last pair: its extra rows are computed and dropped.
        padding = self.num_pairs - len(pairs) if self.deterministic else 0
        with torch.no_grad(), _evaluating(self.denoiser), self._reproducible():
            errors = self._errors(pairs + pairs[-1:] * padding).cpu().numpy()
        for (image, trial), error in zip(pairs, errors, strict=False):
            image.result.errors[:, trial] = error
            image.remaining -= 1

    def _errors(self, pairs: _Pairs) -> Float[Tensor, "P K"]:
        classes = self.denoiser.num_classes
        keys = torch.tensor([image.key for image, _ in pairs])
        trials = torch.tensor([trial for _, trial in pairs])
        logsnr = torch.stack([image.logsnr[trial] for image, trial in pairs]).to(self.device)
        x = torch.stack([image.x for image, _ in pairs])
        eps = self.bank.noise(keys, trials, x.shape[1:], self.device)
        z_t, v = diffuse(x, eps, logsnr), v_target(x, eps, logsnr)
        y = torch.arange(classes, device=self.device).repeat(len(pairs))
        v_hat = self._v_hat(z_t.repeat_interleave(classes, 0), logsnr.repeat_interleave(classes), y)
        return (v_hat.view(-1, classes, *v.shape[1:]) - v[:, None]).square().mean(dim=(2, 3, 4))

    def _v_hat(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        while True:
            try:
                rows = zip(
                    *(torch.split(part, self.rows_per_call) for part in (z_t, logsnr, y)),
                    strict=True,
                )
                with autocast(self.device, self.precision):
                    return torch.cat([self.denoiser(*row).float() for row in rows])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.rows_per_call == 1 or self.deterministic:
                    raise
            self.rows_per_call //= 2
            log.warning("out of memory: batch halved to %d rows", self.rows_per_call)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @contextmanager
    def _reproducible(self) -> Iterator[None]:
        if not self.deterministic:
            yield
            return
        if self.device.type == "cuda":
            # cuBLAS reads this when it starts; without it torch refuses deterministic products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        before = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and each back into its own mode afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
