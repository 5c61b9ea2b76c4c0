"""Denoising errors of images x classes x trials: the one place that calls a network here.

For image b, class k and trial n, with one z_t shared by all classes (paper Eq. 4, spec section 3):

    z_t = alpha_n x_b + sigma_n eps_n            v = alpha_n eps_n - sigma_n x_b
    errors[b, k, n] = mean over channels and pixels of (v_hat(z_t, logsnr_n, k) - v)^2

x_b is in the network's own coordinates (wavelet bands at unit variance), t_n and eps_n come from
the image's trial bank.

The work is a queue of (image, trial) pairs, see `diffdx.classification.work`. Each batch takes as
many pairs as fit, from as many images as it needs, and expands them over the classes, so batches
are full until the last one, whatever the number of images, classes and trials. Layers of the
network that come before the class enters it run once a pair. Images are read as the queue reaches
them and leave when they are done: memory does not grow with the dataset. log-SNR, z_t and the
errors are float32; `precision` concerns the network alone.

The result depends on the batch only through rounding (about 1e-6 relative in float32). With
`deterministic` a batch holds trials of one image only, in a fixed number of rows, and the result
does not depend on it at all.
"""

import copy
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from diffdx._device import AUTOCAST_DTYPE, Precision, autocast, is_out_of_memory
from diffdx._tensors import Images, PerRow, RowImages, Rows, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.classification.bank import TrialBank
from diffdx.classification.evidence import EvidenceCollector
from diffdx.classification.work import ALL_TRIALS, Ending, OpenImage, Pair, WorkQueue
from diffdx.classification.work import ImageErrors as ImageErrors
from diffdx.diffusion.process import diffuse, v_target
from diffdx.diffusion.schedule import NoiseSchedule
from diffdx.errors import ConfigError

log = logging.getLogger(__name__)

# Rows of a deterministic batch: never depends on --batch-size, so that changing it changes nothing.
_DETERMINISTIC_ROWS = 64


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
    schedule: NoiseSchedule,
    images: Iterable[Tensor | Exception],
    bank: TrialBank,
    *,
    num_trials: int,
    encode: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    deterministic: bool = False,
    ending: Ending = ALL_TRIALS,
    evidence: EvidenceCollector | None = None,
) -> Iterator[ImageErrors]:
    """Yield the errors of each image as it is done, in the order of the stream.

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
        ending: What may end an image before its last trial.
        evidence: Gets every residual, to add up maps; each image's before its errors are yielded.

    Raises:
        ConfigError: if the bank is shorter than `num_trials`, a time budget is to be
            deterministic, or classes may be eliminated whose maps would end early.
    """
    bank.require(num_trials)
    if deterministic and ending.budget_seconds is not None:
        raise ConfigError("a time budget is never deterministic: leave out one of the two")
    if evidence is not None and ending.elimination is not None:
        raise ConfigError(
            "an eliminated class has no map of the same trials: leave out --evidence or --eliminate"
        )
    where = torch.device(device)
    evaluator = _Evaluator(
        denoiser, schedule, bank, batch_size, where, precision, deterministic, evidence
    )
    arrivals = (evaluator.open(i, item, num_trials, encode) for i, item in enumerate(images))
    rows = evaluator.num_pairs * denoiser.num_classes if deterministic else batch_size
    queue = WorkQueue(arrivals, ending, rows=rows, one_image=deterministic)

    def results() -> Iterator[ImageErrors]:
        while pairs := queue.next_batch():
            started = time.perf_counter()
            evaluator.run(pairs)
            queue.settle(pairs, time.perf_counter() - started)
            if evidence is not None:
                evidence.settle(pairs)
            yield from queue.finished()
        yield from queue.finished()

    return results()


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
    """Opens images, runs batches of pairs through the network and files their errors."""

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        bank: TrialBank,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        deterministic: bool,
        evidence: EvidenceCollector | None,
    ) -> None:
        self.denoiser, self.schedule = in_precision(denoiser, precision), schedule
        self.bank, self.device = bank, device
        self.precision, self.deterministic = precision, deterministic
        self.rows_per_call = _DETERMINISTIC_ROWS if deterministic else batch_size
        self.num_pairs = max(1, self.rows_per_call // denoiser.num_classes)
        self.evidence = evidence

    def open(
        self,
        index: int,
        item: Tensor | Exception,
        num_trials: int,
        encode: Callable[[Tensor], Tensor] | None,
    ) -> OpenImage:
        """Return an image's constants, none of its trials done; a failure if it could not be read.

        The log-SNRs come from the bank's times, the content key from the pixels.
        """
        classes = self.denoiser.num_classes
        if isinstance(item, Exception):
            nothing = np.empty((classes, 0), np.float32), np.empty(0, np.float32)
            return OpenImage(ImageErrors(index, *nothing, failure=item))
        key = self.bank.key(item)
        logsnr = self.schedule.logsnr(self.bank.times(torch.tensor([key]))[0, :num_trials])
        with torch.no_grad():
            x = item.to(self.device, torch.float32)
            x = x if encode is None else encode(x[None])[0]
        errors = np.full((classes, num_trials), np.nan, np.float32)
        return OpenImage(ImageErrors(index, errors, logsnr.numpy()), key, x)

    def run(self, pairs: list[Pair]) -> None:
        """Compute each pair's errors under the classes that it still has."""
        # Padding repeats the last pair: its extra rows are computed and dropped.
        padding = self.num_pairs - len(pairs) if self.deterministic else 0
        live = np.stack([image.live for image, _ in pairs + pairs[-1:] * padding])
        # The rows of a deterministic batch do not depend on who was eliminated.
        owner, y = np.nonzero(live | self.deterministic)
        with torch.no_grad(), evaluating(self.denoiser), self._reproducible():
            rows = self._errors(
                pairs + pairs[-1:] * padding, torch.from_numpy(owner), torch.from_numpy(y)
            )
        errors = np.full(live.shape, np.inf, np.float32)
        errors[owner, y] = rows.cpu().numpy()
        for (image, trial), error in zip(pairs, errors, strict=False):
            image.result.errors[:, trial] = error

    def _errors(self, pairs: list[Pair], owner: Rows, y: Rows) -> PerRow:
        """Return the error of pair owner[r] under class y[r]; owners ascend."""
        keys = torch.tensor([image.key for image, _ in pairs])
        trials = torch.tensor([trial for _, trial in pairs])
        logsnr = torch.tensor([image.result.logsnr[trial] for image, trial in pairs])
        x, logsnr = torch.stack([image.x for image, _ in pairs]), logsnr.to(self.device)
        eps = self.bank.noise(keys, trials, x.shape[1:], self.device)
        v_hat = self._v_hat(diffuse(x, eps, logsnr), logsnr, y, owner)
        residual = v_hat - v_target(x, eps, logsnr)[owner.to(self.device)]
        if self.evidence is not None:
            self.evidence.hold(residual, owner, y)
        return residual.square().mean(dim=(1, 2, 3))

    def _v_hat(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        while True:
            try:
                parts = (torch.split(rows, self.rows_per_call) for rows in (y, owner))
                with autocast(self.device, self.precision):
                    calls = [self._call(z_t, logsnr, *rows) for rows in zip(*parts, strict=True)]
                return torch.cat(calls)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.rows_per_call == 1 or self.deterministic:
                    raise
            self.rows_per_call //= 2
            log.warning("out of memory: batch halved to %d rows", self.rows_per_call)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _call(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        """Call the network with the noisy images of these rows and no others."""
        first, last = int(owner[0]), int(owner[-1]) + 1
        y, owner = y.to(self.device), (owner - first).to(self.device)
        noisy = z_t[first:last], logsnr[first:last]
        return self.denoiser.under_classes(*noisy, y, owner).float()

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
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and each back into its own mode afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
