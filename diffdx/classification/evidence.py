"""Evidence maps: where in the image the classes' denoising errors come from.

The error of a trial is a mean over the network's coordinates, an orthonormal Haar transform of the
pixels, so it is a sum over the pixels p of the residual's inverse transform (spec section 6):

    errors[b, k, n] = sum_p m[b, k, n, p]      m = sum_c (idwt(v_hat - v)[c, p])^2 / D

D counts the coordinates. The bands stay scaled as the network has them: taking the scale off first
would break the sum. A map is the mean of m over the trials, weighted as the decision rule weighs
its errors, so that it adds up to what the rule compares:

    mean      map[b, k, p] = mean_n s_n m[b, k, n, p]     s = 1 (v), alpha^2 (eps), sigma^2 (x)
    weighted  map[b, k, p] = sum_j w_j mean over the trials n of bin j of m[b, k, n, p]

The vote has no map of its own; it is shown by the mean of its run's space. A map is kept in four
parts, by the trial's log-SNR from noisy to clean, which show coarse to fine structure and add up to
it. The parts are accumulated in float64 while classifying: no call of the network is added. With K
classes and W bins of weights an open image takes up to K (W + 3) H W float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdx._tensors import Rows
from diffdx._typing import Space
from diffdx.classification.evidence_store import PARTS as PARTS
from diffdx.classification.evidence_store import ErrorMaps as ErrorMaps
from diffdx.classification.voting import to_space
from diffdx.classification.weighted import LogSNRWeights
from diffdx.classification.work import OpenImage, Pair
from diffdx.diffusion.schedule import NoiseSchedule
from diffdx.transforms.coordinates import Wavelet
from diffdx.transforms.haar import haar_idwt

Residuals = Float[Tensor, "rows D h w"]
RowMaps = Float[Tensor, "rows H W"]
Sink = Callable[[int, ErrorMaps], None]
"""Takes an image's position in the stream and its maps, once its last trial is known."""


def part_edges(schedule: NoiseSchedule) -> tuple[float, ...]:
    """Return the log-SNRs between the parts, ascending, in nats; each part has as many trials.

    Trials are uniform in time, so these are the quartiles of the schedule.
    """
    t = torch.arange(PARTS - 1, 0, -1, dtype=torch.float64) / PARTS
    return tuple(schedule.logsnr(t).tolist())


def map_sides(shape: Sequence[int], wavelet: Wavelet) -> tuple[int, int]:
    """Return height and width of a map, from the shape (C, h, w) of the network's coordinates."""
    factor = 2 if wavelet == "haar" else 1
    return factor * shape[1], factor * shape[2]


def pixel_errors(residual: Residuals, wavelet: Wavelet) -> RowMaps:
    """Return m, the share of each pixel in the mean squared residual; sums to it.

    Args:
        residual: v_hat - v in the network's coordinates.
        wavelet: Of these coordinates; `none` if they are pixels already.
    """
    pixels = haar_idwt(residual) if wavelet == "haar" else residual
    return pixels.square().sum(dim=1) / residual[0].numel()


@dataclass
class EvidenceCollector:
    """Adds up the maps of images while they are classified, and hands each over when it is done.

    Attributes:
        sink: Where finished maps go; an image's maps are kept nowhere else.
        edges: log-SNRs between the parts of a map, ascending, in nats.
        wavelet: Of the network's coordinates.
        space: Space of the mean error that the maps add up to.
        weights: Of the weighted rule; None takes the mean.
    """

    sink: Sink
    edges: tuple[float, ...]
    wavelet: Wavelet = "haar"
    space: Space = "v"
    weights: LogSNRWeights | None = None
    _sums: dict[int, Float[np.ndarray, "K bins H W"]] = field(default_factory=dict)
    _held: tuple[Int[np.ndarray, "rows"], Int[np.ndarray, "rows"], RowMaps] | None = None

    def __post_init__(self) -> None:
        inner = () if self.weights is None else self.weights.edges
        # Fine enough for both: each bin lies in one part and in one bin of the weights.
        self._bounds = np.array(sorted({*self.edges, *inner}))

    def hold(self, residual: Residuals, owner: Rows, y: Rows) -> None:
        """Take a batch's residuals: row r is of pair owner[r] under class y[r]."""
        self._held = owner.numpy(), y.numpy(), pixel_errors(residual, self.wavelet)

    def settle(self, pairs: Sequence[Pair]) -> None:
        """Add what is held of trials that count, and hand over the images that are closed.

        Args:
            pairs: Those of the held batch, after the queue has settled them: an error that is not
                finite by then lies beyond its image's end.
        """
        assert self._held is not None
        owner, y, maps = self._held
        self._held = None
        images = {image.result.index: image for image, _ in pairs}
        groups: dict[tuple[int, int, int], list[int]] = {}
        logsnr = np.array([image.result.logsnr[trial] for image, trial in pairs])
        bins = _bins(self._bounds, logsnr)
        for row, (pair, k) in enumerate(zip(owner.tolist(), y.tolist(), strict=True)):
            if pair >= len(pairs):  # the padding of a deterministic batch
                break
            image, trial = pairs[pair]
            if np.isfinite(image.result.errors[k, trial]):
                groups.setdefault((image.result.index, k, int(bins[pair])), []).append(row)
        for (index, k, bin_), rows in groups.items():
            shape = (len(images[index].live), len(self._bounds) + 1, *maps.shape[1:])
            sums = self._sums.setdefault(index, np.zeros(shape))
            sums[k, bin_] += self._summed(maps[rows], logsnr[owner[rows]])
        for index, image in images.items():
            if image.closed and index in self._sums:
                sums = self._sums.pop(index)
                if image.result.failure is None:
                    self.sink(index, self._finished(image, sums))

    def _summed(self, maps: RowMaps, logsnr: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "H W"]:
        """Return the sum of the rows in float64, each as the space of the errors weighs it."""
        weights = np.ones(len(maps))
        if self.weights is None:
            weights = to_space(weights[None, None], logsnr[None], self.space)[0, 0]
        factors = torch.from_numpy(weights).to(maps.device)
        return torch.einsum("r,rhw->hw", factors, maps.double()).cpu().numpy()

    def _finished(self, image: OpenImage, sums: Float[np.ndarray, "K bins H W"]) -> ErrorMaps:
        """Return the maps in their parts: each bin times what its trials count."""
        run = np.isfinite(image.result.errors[0])
        logsnr = image.result.logsnr[run]
        # A point inside each bin says to which part and to which weight it belongs.
        inside = np.concatenate([self._bounds[:1] - 1, self._bounds])
        factors = np.full(len(inside), 1 / len(logsnr))
        if self.weights is not None:
            bounds = np.array(self.weights.edges)
            counts = np.bincount(_bins(bounds, logsnr), minlength=len(bounds) + 1)
            factors = (np.array(self.weights.weights) / np.maximum(counts, 1))[
                _bins(bounds, inside)
            ]
        part = _bins(np.array(self.edges), inside)
        weighed = sums * factors[:, None, None]
        parts = [weighed[:, part == p].sum(axis=1) for p in range(len(self.edges) + 1)]
        return np.stack(parts, axis=-1).astype(np.float32)


def _bins(
    bounds: Float[np.ndarray, "edges"], logsnr: Float[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    return np.searchsorted(bounds, logsnr, side="right").astype(np.int64)
