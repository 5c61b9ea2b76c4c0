"""Noise schedule: the map between diffusion time t in [0, 1] and log-SNR in nats.

    a = atan exp(-(logsnr_max - s) / 2)
    b = atan exp( (s - logsnr_min) / 2)
    logsnr(t) = -2 log tan(a + t (b - a)) + s          s = 2 log(64 / d)

This is the cosine schedule of variance-preserving diffusion, shifted by s for a side of d pixels
(simple diffusion, base 64; paper B.3). The bounds are warped, never clamped: logsnr(0) = logsnr_max
and logsnr(1) = logsnr_min exactly, and the map is strictly decreasing, so it has an inverse.

Not to be confused with a clamped cosine schedule (which is flat at its ends) nor with bounds that
are shifted along with the curve (which move logsnr(0) and logsnr(1) by s).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from diffdx._tensors import Schedule


class NoiseSchedule(ABC):
    """A decreasing map from time in [0, 1] to log-SNR in nats.

    Attributes:
        logsnr_min: log-SNR at t = 1, in nats.
        logsnr_max: log-SNR at t = 0, in nats.
    """

    logsnr_min: float
    logsnr_max: float

    @abstractmethod
    def logsnr(self, t: Schedule) -> Schedule:
        """Return the log-SNR at times in [0, 1], in nats and in t's own dtype."""

    @abstractmethod
    def t(self, logsnr: Schedule) -> Schedule:
        """Return the times at which the schedule has these log-SNRs."""

    def _check_times(self, t: Schedule) -> None:
        if t.numel() and not (t.min() >= 0 and t.max() <= 1):
            raise ValueError("diffusion times must lie in [0, 1]")

    def _check_levels(self, logsnr: Schedule) -> None:
        low, high = self.logsnr_min - 1e-4, self.logsnr_max + 1e-4
        if logsnr.numel() and not (logsnr.min() >= low and logsnr.max() <= high):
            raise ValueError(
                f"log-SNR must lie in [{self.logsnr_min}, {self.logsnr_max}] nats, "
                f"got {float(logsnr.min()):.4g} to {float(logsnr.max()):.4g}"
            )


@dataclass(frozen=True)
class ShiftedCosine(NoiseSchedule):
    """Shifted cosine schedule with exact bounds.

    Attributes:
        logsnr_min: log-SNR at t = 1, in nats.
        logsnr_max: log-SNR at t = 0, in nats.
        shift: s in nats; 0 is the plain cosine schedule, `shift_for(d)` that of a d pixel side.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(
                f"logsnr_min ({self.logsnr_min}) must be below logsnr_max ({self.logsnr_max})"
            )

    @staticmethod
    def shift_for(side_px: int, base_px: int = 64) -> float:
        """Return the shift s = 2 log(base / d) in nats for images of d = `side_px` pixels."""
        return 2.0 * math.log(base_px / side_px)

    @property
    def _ends(self) -> tuple[float, float]:
        a = math.atan(math.exp(-(self.logsnr_max - self.shift) / 2))
        b = math.atan(math.exp((self.shift - self.logsnr_min) / 2))
        return a, b

    def logsnr(self, t: Schedule) -> Schedule:
        """Return log(alpha^2 / sigma^2) at time t, in nats and in t's own dtype.

        Args:
            t: Times in [0, 1], any shape.

        Raises:
            ValueError: if a time is outside [0, 1], where the schedule is not defined.
        """
        self._check_times(t)
        a, b = self._ends
        # float64: near t = 0 and t = 1 the tangent loses half of float32's digits.
        logsnr = -2 * torch.log(torch.tan(a + t.double() * (b - a))) + self.shift
        return logsnr.to(t.dtype)

    def t(self, logsnr: Schedule) -> Schedule:
        """Return the time at which the schedule has this log-SNR: the inverse of `logsnr`.

        Args:
            logsnr: Log-SNRs in [logsnr_min, logsnr_max], any shape, in nats.

        Raises:
            ValueError: if a log-SNR is outside the bounds, since no time has it.
        """
        self._check_levels(logsnr)
        a, b = self._ends
        angle = torch.atan(torch.exp(-(logsnr.double() - self.shift) / 2))
        return ((angle - a) / (b - a)).clamp(0, 1).to(logsnr.dtype)
