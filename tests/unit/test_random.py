"""The generator against published vectors, its distributions, and what it must not depend on."""

import pytest
import torch

from diffdx import _random
from diffdx._random import (
    content_key,
    epoch_order,
    philox,
    philox_normal,
    philox_order,
    philox_uniform,
    philox_words,
    purpose_key,
)

ONES = 0xFFFFFFFF
# Known-answer vectors of Random123, philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    given = [torch.tensor([c, c]) for c in counter]
    before = [g.clone() for g in given]
    out = philox(given, [torch.tensor([k]) for k in key])
    assert [w.tolist() for w in out] == [[word, word] for word in words]
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_words_come_from_the_documented_counter_and_the_two_halves_of_the_key():
    key = -0x123456789ABCDEF
    words = philox_words(torch.tensor([key]), torch.tensor([7]), 2, 8)
    unsigned = key % 2**64
    counter = [
        torch.tensor([0, 1]),
        torch.tensor([7, 7]),
        torch.tensor([2, 2]),
        torch.tensor([0, 0]),
    ]
    halves = [torch.tensor([unsigned & ONES]), torch.tensor([unsigned >> 32])]
    assert torch.equal(words[0], torch.cat(philox(counter, halves)))


def test_normals_have_the_moments_of_a_standard_normal():
    n = 400 * 1024
    z = philox_normal(torch.arange(400), torch.arange(400), (4, 16, 16)).double().flatten()
    # Standard errors of the first four moments of n standard normals; four of them each.
    assert abs(z.mean()) < 4 * n**-0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_normals_follow_the_normal_distribution_function():
    z = philox_normal(torch.arange(100), torch.zeros(100, dtype=torch.int64), (1000,)).flatten()
    u = torch.special.ndtr(z.double()).sort().values
    n = len(u)
    distance = (u - (torch.arange(n) + 0.5) / n).abs().max()
    # Kolmogorov: P(sqrt(n) distance > 1.95) = 0.001.
    assert distance < 1.95 * n**-0.5


@pytest.mark.parametrize("word", [0, ONES])
def test_normals_are_finite_at_the_ends_of_the_integers(word, monkeypatch):
    monkeypatch.setattr(_random, "philox_words", lambda *_: torch.full((1, 8), word))
    z = philox_normal(torch.tensor([1]), torch.tensor([1]), (8,))
    # The longest radius is that of u = 2^-32.
    assert z.abs().max() <= (2 * 32 * torch.tensor(2.0).log()).sqrt() + 1e-5


def test_draws_of_other_keys_trials_and_streams_are_uncorrelated():
    shape, n = (4, 32, 32), 4096
    keys, trials = torch.tensor([1, 1, 2, 1 << 32]), torch.tensor([0, 1, 0, 0])
    draws = philox_normal(keys, trials, shape).flatten(1).double()
    other = philox_normal(keys[:1], trials[:1], shape, stream=5).flatten(1).double()
    correlation = torch.corrcoef(torch.cat([draws, other])) - torch.eye(5)
    assert correlation.abs().max() < 4.5 * n**-0.5


def test_a_draw_does_not_depend_on_its_batch():
    keys, trials = torch.arange(7) * 977, torch.arange(7) * 3
    together = philox_normal(keys, trials, (3, 5, 5))
    for i in torch.randperm(7, generator=torch.Generator().manual_seed(0)).tolist():
        alone = philox_normal(keys[i : i + 1], trials[i : i + 1], (3, 5, 5))
        assert torch.equal(alone[0], together[i])


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    philox_normal(torch.tensor([1]), torch.tensor([1]), (9,))
    epoch_order(0, 0, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_uniforms_fill_the_half_open_unit_interval_evenly():
    u = philox_uniform(torch.arange(50), torch.zeros(50, dtype=torch.int64), (2000,)).double()
    n = u.numel()
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    # Chi-squared of 19 degrees of freedom: mean 19, standard deviation sqrt(38).
    chi2 = ((counts - n / 20) ** 2 / (n / 20)).sum()
    assert abs(chi2 - 19) < 4 * 38**0.5


def test_each_element_is_equally_likely_at_each_place_of_an_order():
    orders = philox_order(torch.arange(6000), 6)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(6).expand(6000, 6))
    counts = torch.stack([(orders == k).sum(0) for k in range(6)]).double()
    # Each cell is binomial(6000, 1/6); the largest of 36 stays within 4 standard errors.
    assert (counts - 1000).abs().max() < 4 * (6000 / 6 * 5 / 6) ** 0.5


def test_epoch_orders_are_permutations_that_differ_between_epochs_and_seeds():
    order = epoch_order(3, 4, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, epoch_order(3, 4, 1000))
    for other in (epoch_order(3, 5, 1000), epoch_order(4, 4, 1000)):
        # Matches of two random permutations are Poisson(1).
        assert (order == other).sum() < 8


def test_the_content_key_changes_with_seed_pixel_and_shape_only():
    x = torch.linspace(-1, 1, 24).view(1, 4, 6)
    key = content_key(x, 0)
    assert key == content_key(x.clone().double().requires_grad_(), 0)
    assert key == content_key(x.mT.contiguous().mT, 0)
    changed = x.clone()
    changed[0, 2, 3] += 1e-6
    assert (
        len({key, content_key(x, 1), content_key(x.view(1, 6, 4), 0), content_key(changed, 0)}) == 4
    )
    assert purpose_key(0, "a") != purpose_key(0, "b") != purpose_key(1, "b")
