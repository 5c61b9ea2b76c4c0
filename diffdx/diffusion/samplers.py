"""Generation: the reverse process on our log-SNR schedule, stepped by diffusers' DDIM scheduler.

A sampler of S steps visits the log-SNRs logsnr(t_i) with t_i = t_start (i + 1) / S, i = S-1 .. 0,
and ends at the clean image. The scheduler gets exactly these S levels as its training grid
(`trained_betas`), so no level is rounded to an integer timestep.

    ddim: eta = 0, deterministic              ddpm: eta = 1, ancestral (the DDPM posterior variance)

Inversion runs DDIM backwards, from the clean image to the noise that it came from. A step up needs
the eps_hat of the level that it leads to, which is not known yet, so it is iterated:

    z_i <- alpha_i / alpha_(i-1) (z_(i-1) - sigma_(i-1) eps_hat(z_i)) + sigma_i eps_hat(z_i)

The fixed point is the exact inverse of the sampler's step down.
"""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler

from diffdx._tensors import ClassIds, Images, Schedule, Times
from diffdx.diffusion.guidance import guided_v
from diffdx.diffusion.loss import VPredictor
from diffdx.diffusion.process import eps_from_v
from diffdx.diffusion.schedule import NoiseSchedule

Method = Literal["ddim", "ddpm"]

LOGSNR_FLOOR = -10.0
"""Below this, alpha^2 accumulated in float32 by the scheduler loses its last digits."""


def logsnr_grid(schedule: NoiseSchedule, num_steps: int, logsnr_start: float) -> Schedule:
    """Return the S log-SNRs visited, lowest noise first, float64, in nats.

    Raises:
        ValueError: if there is no step, or the start is outside what the schedule and the
            scheduler's float32 can represent.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    floor = max(LOGSNR_FLOOR, schedule.logsnr_min)
    if not floor <= logsnr_start < schedule.logsnr_max:
        raise ValueError(
            f"logsnr_start must lie in [{floor}, {schedule.logsnr_max}) nats, got {logsnr_start}"
        )
    t_start = schedule.t(torch.tensor(logsnr_start, dtype=torch.float64))
    fractions = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    return schedule.logsnr(t_start * fractions)


def ddim_scheduler(logsnr: Schedule) -> DDIMScheduler:
    """Return diffusers' DDIM scheduler whose i-th training level has log-SNR logsnr[i]."""
    scheduler = DDIMScheduler(
        num_train_timesteps=len(logsnr),
        trained_betas=_betas(logsnr),
        prediction_type="v_prediction",
        clip_sample=False,  # the default clamps wavelet coefficients to [-1, 1]
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(len(logsnr))
    return scheduler


def ddim_inverse_scheduler(logsnr: Schedule) -> DDIMInverseScheduler:
    """Return diffusers' DDIM inversion whose i-th step leads up to log-SNR logsnr[i]."""
    scheduler = DDIMInverseScheduler(
        num_train_timesteps=len(logsnr),
        trained_betas=_betas(logsnr),
        # Its v prediction would take v at the level left; ours is at the level reached.
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(len(logsnr))
    return scheduler


def _betas(logsnr: Schedule) -> list[float]:
    alpha_squared = torch.sigmoid(logsnr)
    previous = torch.cat([torch.ones(1, dtype=logsnr.dtype), alpha_squared[:-1]])
    betas: list[float] = (1 - alpha_squared / previous).tolist()
    return betas


@torch.no_grad()
def sample(
    predict_v: VPredictor,
    schedule: NoiseSchedule,
    z_start: Images,
    y: ClassIds,
    *,
    null_label: int,
    num_steps: int = 50,
    logsnr_start: float | None = None,
    guidance_scale: float = 1.0,
    method: Method = "ddim",
    generator: torch.Generator | None = None,
    watch: Callable[[Images], None] | None = None,
) -> Images:
    """Return images (network coordinates) generated from z_start under labels y.

    Network evaluations: num_steps, twice that with guidance.

    Args:
        predict_v: The denoiser.
        schedule: The noise schedule it was trained on.
        z_start: Noisy images at logsnr_start; standard normal noise for generation from nothing.
        y: Class of each image.
        null_label: The label that stands for no class.
        num_steps: S >= 1.
        logsnr_start: Log-SNR of z_start in nats; None is the noisiest level.
        guidance_scale: 1 = none.
        method: `ddim` or `ddpm`.
        generator: Source of the ancestral noise of `ddpm`.
        watch: Called after each step with x_hat, the image that the step expects.

    Raises:
        ValueError: if logsnr_start or num_steps is out of range.
    """
    if logsnr_start is None:
        logsnr_start = max(LOGSNR_FLOOR, schedule.logsnr_min)
    logsnr = logsnr_grid(schedule, num_steps, logsnr_start)
    scheduler = ddim_scheduler(logsnr)
    z = z_start
    for i in scheduler.timesteps.tolist():
        level: Times = logsnr[i].to(z).expand(len(z))
        v = guided_v(predict_v, z, level, y, null_label=null_label, guidance_scale=guidance_scale)
        eta = 0.0 if method == "ddim" else 1.0
        step = scheduler.step(v, i, z, eta=eta, generator=generator)
        z = step.prev_sample
        if watch is not None:
            watch(step.pred_original_sample)
    return z


@torch.no_grad()
def invert(
    predict_v: VPredictor,
    schedule: NoiseSchedule,
    x: Images,
    y: ClassIds,
    *,
    logsnr_start: float,
    num_steps: int = 50,
    iterations: int = 2,
) -> Images:
    """Return the z_start that the DDIM sampler, unguided under labels y, turns into x.

    Network evaluations: num_steps x iterations.

    Args:
        predict_v: The denoiser.
        schedule: The noise schedule it was trained on.
        x: Clean images in network coordinates.
        y: Class of each image.
        logsnr_start: Log-SNR to go up to, in nats.
        num_steps: S >= 1; the sampler inverts it with the same number.
        iterations: Of each step's fixed point, >= 1; one is plain DDIM inversion.

    Raises:
        ValueError: if logsnr_start or num_steps is out of range.
    """
    logsnr = logsnr_grid(schedule, num_steps, logsnr_start)
    scheduler = ddim_inverse_scheduler(logsnr)
    z = x
    for i in scheduler.timesteps.tolist():
        level: Times = logsnr[i].to(z).expand(len(z))
        reached = z
        for _ in range(iterations):
            eps = eps_from_v(reached, predict_v(reached, level, y), level)
            reached = scheduler.step(eps, i, z).prev_sample
        z = reached
    return z
