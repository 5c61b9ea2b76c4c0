"""Samplers against Gaussian classes, whose reverse process is known exactly."""

import itertools

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffdx.backbones.analytic import GaussianClasses
from diffdx.diffusion.guidance import guided_v
from diffdx.diffusion.process import alpha_sigma
from diffdx.diffusion.samplers import ddim_scheduler, logsnr_grid, sample
from diffdx.diffusion.schedule import ShiftedCosine

SCHEDULE = ShiftedCosine()
STD = 0.5


@pytest.fixture
def oracle():
    means = torch.stack([torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), 2.0)]).double()
    return GaussianClasses(means, STD)


class Counting:
    """A denoiser that counts its rows."""

    def __init__(self, inner):
        self.inner, self.rows = inner, 0

    def __call__(self, z_t, logsnr, y):
        self.rows += len(z_t)
        return self.inner(z_t, logsnr, y)


def exact_ddim(z, mean, start):
    """Return the end of the probability flow of N(mean, STD^2) from log-SNR `start` to no noise.

    The flow keeps (z - alpha mean) / sqrt(alpha^2 s^2 + sigma^2) constant.
    """
    alpha, sigma = alpha_sigma(torch.tensor(start, dtype=torch.float64))
    return mean + STD * (z - alpha * mean) / (alpha**2 * STD**2 + sigma**2).sqrt()


@pytest.mark.parametrize("start", [-10.0, -2.0, 1.0])
def test_ddim_converges_at_first_order_to_the_exact_flow(oracle, start):
    z = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    y = torch.ones(64, dtype=torch.long)
    exact = exact_ddim(z, 2.0, start)
    errors = []
    for steps in (20, 40, 80, 160):
        end = sample(oracle, SCHEDULE, z, y, null_label=2, num_steps=steps, logsnr_start=start)
        errors.append((end - exact).abs().max().item())
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(1.6 < ratio < 2.6 for ratio in ratios), (errors, ratios)


def test_ddpm_samples_the_class(oracle):
    n = 4000
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 1, 2, 2, generator=generator).double()
    y = torch.zeros(n, dtype=torch.long)
    x = sample(
        oracle, SCHEDULE, z, y, null_label=2, num_steps=200, method="ddpm", generator=generator
    )
    # 16,000 values: standard errors STD / 126 of the mean and STD / 179 of the deviation; the
    # sampler itself is biased by about 1/200.
    assert x.mean().item() == pytest.approx(-1.0, abs=4 * STD / 126 + 0.005)
    assert x.std().item() == pytest.approx(STD, abs=4 * STD / 179 + 0.01)


def test_one_ancestral_step_equals_diffusers_ddpm():
    grid = logsnr_grid(SCHEDULE, 30, -8.0)
    ours = ddim_scheduler(grid)
    theirs = DDPMScheduler(
        num_train_timesteps=30,
        trained_betas=ours.betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
    )
    theirs.set_timesteps(30)
    z, v = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for i in (29, 12, 1):
        a = ours.step(v, i, z, eta=1.0, generator=torch.Generator().manual_seed(2)).prev_sample
        b = theirs.step(v, i, z, generator=torch.Generator().manual_seed(2)).prev_sample
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("start", [-10.0, -3.0, 2.0])
def test_scheduler_levels_are_the_schedules(start):
    grid = logsnr_grid(SCHEDULE, 50, start)
    assert grid[-1].item() == pytest.approx(start, abs=1e-9)
    held = ddim_scheduler(grid).alphas_cumprod.double()
    torch.testing.assert_close(held, torch.sigmoid(grid), atol=3e-7, rtol=0)


def test_one_step_equals_float64_arithmetic(oracle):
    z = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(3)).double()
    y = torch.zeros(8, dtype=torch.long)
    end = sample(oracle, SCHEDULE, z, y, null_label=2, num_steps=1, logsnr_start=-2.0)
    level = torch.full((8,), -2.0, dtype=torch.float64)
    alpha, sigma = alpha_sigma(level[0])
    torch.testing.assert_close(end, alpha * z - sigma * oracle(z, level, y), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 10 * 4), (3.0, 2 * 10 * 4)])
def test_evaluations_equal_steps_times_two_with_guidance(oracle, scale, rows):
    counting = Counting(oracle)
    z = torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    y = torch.ones(4, dtype=torch.long)
    sample(counting, SCHEDULE, z, y, null_label=2, num_steps=10, guidance_scale=scale)
    assert counting.rows == rows


def test_guidance_formula(oracle):
    z = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(4)).double()
    level = torch.linspace(-4, 4, 4, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    null = torch.full_like(y, 2)
    for scale in (0.0, 1.0, 4.5):
        got = guided_v(oracle, z, level, y, null_label=2, guidance_scale=scale)
        v_null = oracle(z, level, null)
        torch.testing.assert_close(got, v_null + scale * (oracle(z, level, y) - v_null))


def test_bad_requests_are_refused(oracle):
    with pytest.raises(ValueError, match="num_steps"):
        logsnr_grid(SCHEDULE, 0, -10.0)
    for start in (-10.5, 10.0):
        with pytest.raises(ValueError, match="logsnr_start"):
            logsnr_grid(SCHEDULE, 5, start)
