"""The wavelet transform: exact, orthonormal, and the one that PyWavelets computes."""

import pytest
import pywt
import torch

from diffdx.transforms.coordinates import Coordinates
from diffdx.transforms.haar import haar_dwt, haar_idwt


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(0)).double()


def test_reconstruction_and_energy(x):
    coefficients = haar_dwt(x)
    torch.testing.assert_close(haar_idwt(coefficients), x, atol=1e-14, rtol=0)
    torch.testing.assert_close(coefficients.square().sum(), x.square().sum())


def test_equals_pywavelets(x):
    low, details = pywt.dwt2(x.numpy(), "haar")
    ours = haar_dwt(x).view(3, 4, 3, 6, 5).unbind(1)
    for mine, reference in zip(ours, (low, *details), strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(reference), atol=1e-14, rtol=0)


def test_white_noise_stays_white():
    noise = torch.randn(200, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    bands = haar_dwt(noise).transpose(0, 1).flatten(1)
    covariance = bands @ bands.T / bands.shape[1]
    # 51,200 samples a band: a standard error of 1/226 for covariances, 1/160 for variances.
    torch.testing.assert_close(covariance, torch.eye(4), atol=4 / 160, rtol=0)


def test_odd_sides_and_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="even sides"):
        haar_dwt(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match="4 bands"):
        haar_idwt(torch.zeros(1, 3, 4, 4))


def smooth_images():
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(64, 1, 4, 4, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
    return smooth + 0.02 * torch.randn(smooth.shape, generator=generator)


def test_bands_get_unit_variance_and_decode_inverts():
    x = smooth_images()
    coordinates = Coordinates(1, "haar", "unit_variance")
    coordinates.fit(x)
    z = coordinates.encode(x)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(coordinates.decode(z), x, atol=1e-5, rtol=0)
    assert coordinates.std[3] < 0.1 * coordinates.std[0], "the raw HH band is much weaker than LL"


def test_statistics_travel_in_the_state():
    x = smooth_images()
    fitted, fresh = (Coordinates(1, "haar", "unit_variance") for _ in range(2))
    fitted.fit(x)
    fresh.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(fresh.encode(x), fitted.encode(x))


@pytest.mark.parametrize("wavelet", ["haar", "none"])
def test_without_scaling_coordinates_are_orthonormal(wavelet):
    x = smooth_images()
    coordinates = Coordinates(1, wavelet, "none")
    coordinates.fit(x)
    z = coordinates.encode(x)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    torch.testing.assert_close(coordinates.decode(z), x, atol=1e-6, rtol=0)


def test_a_constant_band_cannot_be_scaled():
    with pytest.raises(ValueError, match="constant"):
        Coordinates(1, "haar", "unit_variance").fit(torch.zeros(4, 1, 8, 8))
