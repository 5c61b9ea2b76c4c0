"""Evidence maps: they add up to what the rule compares, however a run is cut, and cost no calls."""

import numpy as np
import pytest
import torch

from diffdx.backbones.denoiser import Denoiser
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors
from diffdx.classification.evidence import (
    EvidenceCollector,
    map_sides,
    part_edges,
    pixel_errors,
)
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.voting import mean_error
from diffdx.classification.weighted import LogSNRWeights, weighted_scores
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import ConfigError
from diffdx.transforms.coordinates import Coordinates
from diffdx.transforms.haar import haar_dwt

BANK, SCHEDULE, N = TrialBank(seed=1, size=21), ShiftedCosine(), 21
EDGES = part_edges(SCHEDULE)
WEIGHTS = LogSNRWeights(
    edges=(-4.0, -0.5, 0.5, 3.0), weights=(0.0, 3.0, 1.0, 0.5, 2.0), biases=(0.1, -0.1)
)
SIDE = 12


class TwoFilters(Denoiser):
    """Another convolution for each class, so that their errors differ from pixel to pixel."""

    def __init__(self, num_classes, channels):
        super().__init__()
        self.num_classes = num_classes
        self.calls = 0
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.layers = torch.nn.ModuleList(
                torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_classes)
            )

    def forward(self, z_t, logsnr, y):
        self.calls += len(z_t)
        rows = [self.layers[int(k)](z[None]) for z, k in zip(z_t, y, strict=True)]
        return torch.cat(rows) * torch.tanh(logsnr / 4).view(-1, 1, 1, 1)


def images(count, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(2 * torch.rand(count, channels, SIDE, SIDE, generator=generator) - 1)


def coordinates(channels=1, wavelet="haar"):
    made = Coordinates(channels, wavelet, "unit_variance")
    made.fit(torch.stack(images(8, channels, seed=9)))
    return made


def run(stream, *, num_classes=2, channels=1, wavelet="haar", collect=True, **options):
    """Return the network, the results and the maps by position."""
    space, weights = options.pop("space", "v"), options.pop("weights", None)
    transform = coordinates(channels, wavelet)
    denoiser = TwoFilters(num_classes, transform.channels)
    maps = {}
    collector = EvidenceCollector(maps.__setitem__, EDGES, wavelet, space, weights)
    options.setdefault("batch_size", 16)
    results = denoising_errors(
        denoiser,
        SCHEDULE,
        stream,
        BANK,
        num_trials=N,
        encode=transform.encode,
        evidence=collector if collect else None,
        **options,
    )
    return denoiser, list(results), maps


def stacked(results):
    return np.stack([r.errors for r in results]), np.stack([r.logsnr for r in results])


def assert_adds_up(maps, errors, logsnr, space):
    """|sum - margin| <= 1e-5 (sum of both errors), for each class and so for each margin."""
    totals = np.stack([maps[i].astype(np.float64).sum(axis=(1, 2, 3)) for i in range(len(errors))])
    mean = mean_error(errors, logsnr, space)
    for a in range(mean.shape[1]):
        for b in range(a):
            off = np.abs((totals[:, a] - totals[:, b]) - (mean[:, a] - mean[:, b]))
            assert (off <= 1e-5 * (mean[:, a] + mean[:, b])).all()


@pytest.mark.parametrize("space", ["v", "eps", "x"])
@pytest.mark.parametrize(("channels", "wavelet"), [(1, "haar"), (3, "haar"), (3, "none")])
def test_maps_add_up_to_the_margin_of_the_mean(space, channels, wavelet):
    stream = images(3, channels)
    _, results, maps = run(stream, num_classes=3, channels=channels, wavelet=wavelet, space=space)
    assert maps[0].shape == (3, SIDE, SIDE, 4)
    assert maps[0].dtype == np.float32
    assert_adds_up(maps, *stacked(results), space)


def test_maps_add_up_to_the_weighted_statistic():
    _, results, maps = run(images(3), weights=WEIGHTS)
    errors, logsnr = stacked(results)
    score = weighted_scores(errors, logsnr, WEIGHTS) - np.array(WEIGHTS.biases)
    for i in range(3):
        totals = maps[i].astype(np.float64).sum(axis=(1, 2, 3))
        assert totals[1] - totals[0] == pytest.approx(score[i, 0], abs=1e-5 * totals.sum())


def test_the_parts_are_the_noise_levels():
    """Each part is the sum over its own trials, a quarter of the bank."""
    _, (result,), maps = run(images(1))
    of = np.searchsorted(EDGES, result.logsnr, side="right")
    assert np.bincount(of).max() - np.bincount(of).min() <= 2
    for part in range(4):
        expected = result.errors[:, of == part].sum(axis=1) / N
        np.testing.assert_allclose(maps[0][..., part].sum(axis=(1, 2)), expected, rtol=1e-5)


def test_a_pixel_has_its_share_of_the_residual():
    residual = torch.zeros(1, 1, 8, 8)
    residual[0, 0, 5, 2] = 3.0
    shares = pixel_errors(haar_dwt(residual), "haar")[0]
    expected = torch.zeros(8, 8)
    expected[5, 2] = 9.0 / 64
    torch.testing.assert_close(shares, expected, atol=1e-6, rtol=0)
    assert map_sides((4, 8, 6), "haar") == (16, 12)
    assert map_sides((4, 8, 6), "none") == (8, 6)


def test_maps_cost_no_network_calls_and_change_no_error():
    stream = images(2)
    with_maps, results, _ = run(stream)
    without, plain, none = run(stream, collect=False)
    assert with_maps.calls == without.calls == 2 * 2 * N
    assert stacked(results)[0].tobytes() == stacked(plain)[0].tobytes()
    assert none == {}


@pytest.mark.parametrize("stop", ["exact", "0.05"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_stopped_image_has_the_map_of_its_own_trials(stop, deterministic):
    ending = ClassifySettings(num_trials=N, bank_size=N, stop=stop).ending(2)
    stream = images(5)
    _, results, maps = run(stream, ending=ending, deterministic=deterministic, batch_size=10)
    errors, logsnr = stacked(results)
    assert np.isnan(errors).any(), "some image stops"
    assert_adds_up(maps, errors, logsnr, "v")


def test_maps_do_not_depend_on_the_batch():
    stream = images(4)
    _, _, whole = run(stream, batch_size=64)
    for options in ({"batch_size": 1}, {"batch_size": 7}):
        _, _, other = run(stream, **options)
        for i, maps in whole.items():
            np.testing.assert_allclose(other[i], maps, rtol=1e-4, atol=1e-9)
    _, _, one = run(stream, deterministic=True, batch_size=64)
    _, _, two = run(stream[::-1], deterministic=True, batch_size=7)
    assert all(one[i].tobytes() == two[3 - i].tobytes() for i in range(4))


def test_an_image_that_fails_has_no_map():
    bad = torch.full((1, SIDE, SIDE), torch.nan)
    _, results, maps = run([images(1)[0], bad, ValueError("unreadable")])
    assert [r.failure is None for r in results] == [True, False, False]
    assert list(maps) == [0]


def test_an_eliminated_class_is_refused():
    settings = ClassifySettings(num_trials=N, bank_size=N, stop="none", eliminate=True)
    with pytest.raises(ConfigError, match="eliminated class has no map"):
        run(images(1), ending=settings.ending(2))
    with pytest.raises(ConfigError, match="--evidence with --eliminate"):
        ClassifySettings(eliminate=True, evidence=True)
