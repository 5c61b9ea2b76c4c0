"""The noise schedule of a Stable Diffusion checkpoint: T levels, and nothing in between.

    alpha_i^2 = prod_{j <= i} (1 - beta_j)          logsnr_i = log(alpha_i^2 / (1 - alpha_i^2))

    linear            beta_j evenly spaced from beta_start to beta_end
    scaled_linear     sqrt(beta_j) evenly spaced         (the schedule of SD 1.x and 2.x)
    squaredcos_cap_v2 alpha_i^2 = cos^2 of the improved DDPM, beta <= 0.999

The network was trained at these levels alone, so a time t in [0, 1] means level floor(t T), and a
uniform t is a uniform level. Time T is not the end of the process: logsnr_min of SD is -5.4, where
an image still shows. The checkpoint's integer timestep i goes no further than its adapter.

Not to be confused with `ShiftedCosine`, whose times are continuous and whose bounds are exact.
"""

from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from diffdx._tensors import Schedule, Times
from diffdx.diffusion.schedule import NoiseSchedule

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


class DiscreteSchedule(NoiseSchedule):
    """Log-SNR levels of a checkpoint, from the highest to the lowest.

    Attributes:
        levels: (T,) log-SNR of each integer timestep, in nats, float64, strictly decreasing.
    """

    levels: Float[Tensor, "T"]

    def __init__(
        self, beta_schedule: BetaSchedule, beta_start: float, beta_end: float, num_levels: int
    ) -> None:
        """Compute the levels.

        Args:
            beta_schedule: Shape of the betas between their ends.
            beta_start: First beta, in (0, 1); unused by `squaredcos_cap_v2`, as is the last.
            beta_end: Last beta, in (0, 1).
            num_levels: T.
        """
        # Levels are numbers even where a model's tensors have none: on the meta device.
        with torch.device("cpu"):
            betas = _betas(beta_schedule, beta_start, beta_end, num_levels)
        log_alpha_squared = torch.log1p(-betas).cumsum(0)
        self.levels = log_alpha_squared - torch.log(-torch.expm1(log_alpha_squared))
        self.logsnr_max, self.logsnr_min = float(self.levels[0]), float(self.levels[-1])

    def logsnr(self, t: Schedule) -> Schedule:
        """Return the log-SNR of level floor(t T) (the last one at t = 1), in t's own dtype.

        Raises:
            ValueError: if a time is outside [0, 1], where the schedule is not defined.
        """
        self._check_times(t)
        num = len(self.levels)
        index = (t.double() * num).long().clamp(max=num - 1)
        return self.levels.to(t.device)[index].to(t.dtype)

    def t(self, logsnr: Schedule) -> Schedule:
        """Return the time in the middle of the level's cell, in between for log-SNRs between two.

        Raises:
            ValueError: if a log-SNR is outside the levels, since no time has it.
        """
        self._check_levels(logsnr)
        return ((self._position(logsnr) + 0.5) / len(self.levels)).to(logsnr.dtype)

    def timestep(self, logsnr: Times) -> Times:
        """Return the checkpoint's integer timestep of a level, as float32."""
        return self._position(logsnr).round().float()

    def _position(self, logsnr: Schedule) -> Schedule:
        """Return the index of each log-SNR among the levels, linear in between, float64."""
        rising = -self.levels.to(logsnr.device)
        value = -logsnr.double().contiguous()
        above = torch.searchsorted(rising, value).clamp(1, len(rising) - 1)
        low, high = rising[above - 1], rising[above]
        return above - 1 + ((value - low) / (high - low)).clamp(0, 1)


def _betas(kind: BetaSchedule, start: float, end: float, num: int) -> Float[Tensor, "T"]:
    match kind:
        case "linear":
            return torch.linspace(start, end, num, dtype=torch.float64)
        case "scaled_linear":
            return torch.linspace(start**0.5, end**0.5, num, dtype=torch.float64).square()
        case "squaredcos_cap_v2":
            betas: Tensor = DDPMScheduler(num, beta_schedule=kind).betas
            return betas.double()
