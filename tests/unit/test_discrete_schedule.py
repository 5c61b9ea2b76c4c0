"""The levels of a checkpoint: the published product of betas, met exactly by uniform times."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffdx.diffusion.discrete import DiscreteSchedule

SHAPES = [
    ("linear", 0.0001, 0.02, 1000),
    ("scaled_linear", 0.00085, 0.012, 1000),
    ("squaredcos_cap_v2", 0.0001, 0.02, 100),
]
EVERY = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[0])


@EVERY
def test_levels_are_those_of_diffusers(shape):
    kind, start, end, num = shape
    theirs = DDPMScheduler(num, beta_start=start, beta_end=end, beta_schedule=kind).alphas_cumprod
    levels = DiscreteSchedule(*shape).levels
    # Theirs is a product in float32: relative error 1e-7 a factor, at most.
    torch.testing.assert_close(torch.sigmoid(levels), theirs.double(), rtol=num * 1e-7, atol=0)
    assert (levels.diff() < 0).all()


def test_the_levels_of_stable_diffusion_end_where_an_image_still_shows():
    schedule = DiscreteSchedule(*SHAPES[1])
    assert schedule.logsnr_max == pytest.approx(math.log(0.99915 / 0.00085))
    # Published: the last alpha-bar is .0047, and sqrt of it, .068, is what remains of the image.
    assert math.exp(schedule.logsnr_min / 2) == pytest.approx(0.068, abs=5e-4)


@EVERY
def test_a_uniform_time_is_a_uniform_level_and_its_inverse_lies_in_its_cell(shape):
    schedule, num = DiscreteSchedule(*shape), shape[3]
    t = (torch.arange(5 * num, dtype=torch.float64) + 0.5) / (5 * num)
    levels, counts = schedule.logsnr(t).unique(return_counts=True)
    assert len(levels) == num
    assert (counts == 5).all()
    torch.testing.assert_close(schedule.logsnr(schedule.t(schedule.levels)), schedule.levels)
    assert schedule.logsnr(torch.tensor([0.0])).item() == pytest.approx(schedule.logsnr_max)
    assert schedule.logsnr(torch.tensor([1.0])).item() == pytest.approx(schedule.logsnr_min)


@EVERY
def test_timesteps_are_the_positions_even_in_float32(shape):
    schedule = DiscreteSchedule(*shape)
    steps = schedule.timestep(schedule.levels.float())
    torch.testing.assert_close(steps, torch.arange(float(shape[3])), rtol=0, atol=0)


def test_between_two_levels_the_time_is_between_theirs():
    schedule = DiscreteSchedule(*SHAPES[1])
    middle = schedule.levels[[400, 401]].mean()
    assert schedule.t(middle).item() == pytest.approx(0.401, abs=1e-9)


def test_times_and_levels_outside_are_refused():
    schedule = DiscreteSchedule(*SHAPES[0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        schedule.logsnr(torch.tensor([-0.1]))
    with pytest.raises(ValueError, match="nats"):
        schedule.t(torch.tensor([50.0]))


def test_levels_are_known_where_a_model_is_only_sized():
    with torch.device("meta"):
        sized = DiscreteSchedule("scaled_linear", 0.00085, 0.012, 1000)
    assert torch.equal(sized.levels, DiscreteSchedule("scaled_linear", 0.00085, 0.012, 1000).levels)
