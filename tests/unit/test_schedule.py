"""The schedule: documented bounds, published values, monotone, with an exact inverse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdx.diffusion.schedule import ShiftedCosine

SCHEDULES = [
    ShiftedCosine(),
    ShiftedCosine(-15.0, 15.0, ShiftedCosine.shift_for(256)),
    ShiftedCosine(-15.0, 15.0, 0.0),
    ShiftedCosine(-8.0, 12.0, 1.5),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bounds_are_exact_and_the_map_is_strictly_decreasing(schedule):
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    logsnr = schedule.logsnr(t)
    assert logsnr[0] == pytest.approx(schedule.logsnr_max, abs=1e-9)
    assert logsnr[-1] == pytest.approx(schedule.logsnr_min, abs=1e-9)
    assert (logsnr.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(t=st.floats(0, 1))
def test_inverse(schedule, t):
    there = schedule.logsnr(torch.tensor([t], dtype=torch.float64))
    assert schedule.t(there).item() == pytest.approx(t, abs=1e-9)


def test_plain_cosine_in_the_limit_of_wide_bounds():
    # Without bounds and shift, alpha = cos(pi t / 2): the cosine schedule itself.
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    logsnr = ShiftedCosine(-60.0, 60.0).logsnr(t)
    alpha = torch.sigmoid(logsnr).sqrt()
    torch.testing.assert_close(alpha, torch.cos(math.pi * t / 2), atol=1e-9, rtol=0)


def test_shift_moves_the_middle_by_the_documented_amount():
    # At 256 px the noise is 2 log 4 = 2.77 nats stronger at the same time (simple diffusion).
    middle = torch.tensor([0.5], dtype=torch.float64)
    shift = ShiftedCosine.shift_for(256)
    assert shift == pytest.approx(-2 * math.log(4))
    assert ShiftedCosine(-15.0, 15.0, shift).logsnr(middle).item() == pytest.approx(shift, abs=0.01)


def test_times_and_levels_outside_the_range_are_refused():
    schedule = ShiftedCosine()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        schedule.logsnr(torch.tensor([1.01]))
    with pytest.raises(ValueError, match="nats"):
        schedule.t(torch.tensor([10.5]))
    with pytest.raises(ValueError, match="below logsnr_max"):
        ShiftedCosine(3.0, -3.0)


def test_float32_times_lose_no_digits_of_float64_computation():
    t = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    schedule = ShiftedCosine(-15.0, 15.0)
    exact = schedule.logsnr(t.double())
    torch.testing.assert_close(schedule.logsnr(t).double(), exact, rtol=1e-7, atol=1e-6)
