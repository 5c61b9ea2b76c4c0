"""The bank: stratified, in random order, a function of seed and content alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdx.classification.bank import TrialBank
from diffdx.errors import ConfigError

keys = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(keys, st.integers(1, 600))
def test_stratified_times_fall_one_in_each_cell(some_keys, size):
    t = TrialBank(size=size).times(torch.tensor(some_keys)).double()
    within_cell = t.sort(dim=1).values * size - torch.arange(size)
    # A float32 time is rounded by 2^-25 at most, so it can reach that far over its cell's end.
    slack = size * 2.0**-24
    assert within_cell.min() >= -slack
    assert within_cell.max() <= 1 + slack


@settings(max_examples=25, deadline=None)
@given(keys, st.sampled_from(["stratified", "iid"]))
def test_times_of_an_image_do_not_depend_on_the_batch(some_keys, sampling):
    bank = TrialBank(size=31, sampling=sampling)
    together = bank.times(torch.tensor(some_keys))
    for key, times in zip(some_keys, together, strict=True):
        assert torch.equal(bank.times(torch.tensor([key]))[0], times)


def test_every_prefix_of_a_bank_is_a_uniform_sample_of_times():
    t = TrialBank(size=501).times(torch.arange(2000)).double()
    # In random order the first trial alone is U(0, 1), whose standard deviation is 12^-1/2.
    assert abs(t[:, 0].mean() - 0.5) < 4 * (12 * 2000) ** -0.5
    # Stratification: the mean of a whole bank scatters by (12 size^3)^-1/2, not (12 size)^-1/2.
    assert (t.mean(dim=1) - 0.5).abs().max() < 5 * (12 * 501**3) ** -0.5


def test_iid_times_are_not_stratified():
    t = TrialBank(size=501, sampling="iid").times(torch.arange(500)).double()
    scatter = (t.mean(dim=1) - 0.5).std()
    expected = (12 * 501) ** -0.5
    assert abs(scatter / expected - 1) < 4 * (2 * 500) ** -0.5


def test_seed_and_content_choose_the_bank():
    x = torch.zeros(1, 8, 8)
    assert TrialBank(0).key(x) == TrialBank(0).key(x.clone())
    assert len({TrialBank(0).key(x), TrialBank(1).key(x), TrialBank(0).key(x + 1)}) == 3
    one, other = (TrialBank().times(torch.tensor([key]))[0] for key in (1, 2))
    # Shared cells at the same trial of two random orders are Poisson(1).
    assert ((one * 501).floor() == (other * 501).floor()).sum() < 8


def test_noise_is_a_function_of_key_and_trial():
    bank = TrialBank()
    key, trial = torch.tensor([5, 5, 6]), torch.tensor([0, 1, 0])
    eps = bank.noise(key, trial, (4, 6, 6), "cpu")
    assert torch.equal(bank.noise(key[2:], trial[2:], (4, 6, 6), "cpu")[0], eps[2])
    assert not torch.equal(eps[0], eps[1])
    assert not torch.equal(eps[0], eps[2])


def test_a_bank_refuses_more_trials_than_it_holds():
    bank = TrialBank(size=11)
    bank.require(11)
    for num_trials in (0, 12):
        with pytest.raises(ConfigError, match="--bank"):
            bank.require(num_trials)
    with pytest.raises(ConfigError, match="at least one"):
        TrialBank(size=0)
