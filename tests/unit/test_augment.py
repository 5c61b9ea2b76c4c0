"""Random changes of training images: exact where they are exact, repeatable, within range."""

import math

import pytest
import torch

from diffdx._torchvision import mend_torchvision
from diffdx.baseline_config import NO_AUGMENTATION, SupervisedAugmentConfig
from diffdx.config import AugmentConfig
from diffdx.transforms import augment as module
from diffdx.transforms.augment import augment, gaussian_blur, octave_gains, random_affine

NOTHING = AugmentConfig(rotate_degrees=0, zoom=0, shift=0)


def only(**changes):
    """Return a configuration of these changes alone."""
    return NOTHING.model_copy(update=changes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=4, side=8, channels=2):
    return torch.rand(count, channels, side, side, generator=generator(1)) * 2 - 1


def warp(x, rows, monkeypatch):
    """Return x under one chosen affine map in place of a random one."""
    theta = torch.tensor(rows).expand(len(x), 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "random_affine", lambda *_: theta)
        return augment(x, only(shift=0.1), generator())


@pytest.mark.parametrize("config", [NOTHING, SupervisedAugmentConfig(**NO_AUGMENTATION)])
def test_nothing_asked_for_changes_nothing(config):
    x = images()
    assert torch.equal(augment(x, config, generator()), x)
    assert config.only_flips


def test_a_quarter_turn_is_the_transpose_of_a_mirror(monkeypatch):
    x = images()
    angle = math.pi / 2
    rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    turned = warp(x, rows, monkeypatch)
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)


def test_a_shift_by_whole_pixels_moves_them_and_repeats_the_border(monkeypatch):
    x = images(side=8)
    # The image is 2 wide, so one pixel of eight is a quarter.
    moved = warp(x, [[1.0, 0.0, 2 / 8], [0.0, 1.0, 0.0]], monkeypatch)
    torch.testing.assert_close(moved[..., :-1], x[..., 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., -1], x[..., -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_mirrors_about_half_of_the_images(name, axis):
    x = images(count=400, side=8)
    made = augment(x, only(**{name: True}), generator())
    # The affine map of a horizontal flip resamples, and rounds.
    is_mirror = (made - x.flip(axis)).abs().amax(dim=(1, 2, 3)) < 1e-4
    is_same = (made - x).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (is_mirror ^ is_same).all()
    # Four standard errors of a share of 1/2 among 400.
    assert abs(is_mirror.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(400)


def test_the_blur_is_torchvisions():
    mend_torchvision()
    from torchvision.transforms.v2.functional import gaussian_blur as reference

    x, sigma = images(side=16), torch.tensor([0.1, 0.7, 1.3, 2.0])
    expected = [reference(x[i], [5, 5], [s.item()] * 2) for i, s in enumerate(sigma)]
    torch.testing.assert_close(gaussian_blur(x, sigma), torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gamma", "contrast"])
def test_brightness_and_contrast_change_by_what_was_configured(name):
    # Of an image of one value, what was drawn can be read off.
    x = torch.full((2000, 1, 2, 2), 0.2)
    made = augment(x, only(**{name: 1.5}), generator())[:, 0, 0, 0]
    drawn = ((made + 1) / 2).log() / math.log(0.6) if name == "gamma" else made / 0.2
    share = drawn.log() / math.log(1.5)
    assert share.abs().max() <= 1 + 1e-4
    error = 4 / math.sqrt(3 * 2000)
    assert abs(share.mean()) < error
    assert abs(share.std() - 1 / math.sqrt(3)) < error


@pytest.mark.parametrize("height", [16, 32])
def test_the_gain_of_an_octave_is_that_of_its_waves(height):
    factors = torch.tensor([[1.5, 0.5, 2.0, 1.25, 3.0]])
    expected = {1: 1.5, 2: 0.5, 4: 2.0, 8: 1.25, 3: 0.5 * 4 ** math.log2(1.5)}
    turn = 2 * math.pi * torch.arange(16) / 16
    for cycles, gain in expected.items():
        wave = torch.cos(cycles * turn).expand(1, 2, height, 16)
        torch.testing.assert_close(octave_gains(0.25 + wave, factors), 0.25 + gain * wave)
    down = torch.sin(4 * 2 * math.pi * torch.arange(height) / height)[:, None]
    down = down.expand(1, 1, height, 16)
    torch.testing.assert_close(octave_gains(down, factors), 2 * down)


def test_equal_gains_are_contrast_about_the_mean():
    x = images(side=7)
    mean = x.mean(dim=(2, 3), keepdim=True)
    gained = octave_gains(x, torch.full((len(x), 4), 1.5))
    torch.testing.assert_close(gained, mean + 1.5 * (x - mean))


@pytest.mark.parametrize(
    "changes", [{"gamma": 2.0}, {"contrast": 2.0}, {"blur_sigma_px": (1, 2)}, {"octaves": 2.0}]
)
def test_appearance_keeps_the_range_and_is_no_matter_of_flips_alone(changes):
    made = augment(images(side=8), only(**changes), generator())
    assert made.abs().max() <= 1
    assert not only(**changes).only_flips


def test_the_drawn_maps_stay_within_what_was_configured():
    config = AugmentConfig(rotate_degrees=10, zoom=0.2, shift=0.1)
    theta = random_affine(config, 2000, generator())
    angle = torch.atan2(theta[:, 1, 0], theta[:, 0, 0])
    scale = theta[:, 0, :2].norm(dim=1)
    limit = math.radians(10)
    assert angle.abs().max() <= limit + 1e-6
    assert scale.max() <= 1.2 + 1e-6
    assert scale.min() >= 1 / 1.2 - 1e-6
    assert theta[:, :, 2].abs().max() <= 0.2 + 1e-6
    # A uniform variable on +-1 has standard deviation 1/sqrt(3), its mean a 2000th of the variance.
    error = 4 / math.sqrt(3 * 2000)
    for values in (angle / limit, scale.log() / math.log(1.2), theta[:, 0, 2] / 0.2):
        assert abs(values.mean()) < error
        assert abs(values.std() - 1 / math.sqrt(3)) < error


@pytest.mark.parametrize(
    "config", [AugmentConfig(gamma=1.3, contrast=1.3, octaves=1.3), SupervisedAugmentConfig()]
)
def test_an_image_depends_on_the_generator_alone(config):
    x = images()
    first = augment(x, config, generator(5))
    torch.manual_seed(99)
    torch.testing.assert_close(augment(x, config, generator(5)), first, atol=0, rtol=0)
    assert (augment(x, config, generator(6)) - first).abs().max() > 0.01


def test_every_image_gets_a_map_of_its_own():
    x = images(count=1).expand(6, -1, -1, -1)
    changed = augment(x, AugmentConfig(), generator())
    assert all((changed[0] - other).abs().max() > 0.01 for other in changed[1:])


@pytest.mark.parametrize("flip", [True, False])
def test_overshoot_of_the_interpolation_is_clipped(flip):
    checks = torch.ones(8, 1, 8, 8)
    checks[..., ::2] = -1
    changed = augment(checks, AugmentConfig(rotate_degrees=30, flip=flip), generator())
    assert changed.min() >= -1
    assert changed.max() <= 1


def test_gamma_after_blur_is_a_number_where_an_image_is_black():
    changes = only(gamma=1.7, blur_sigma_px=(0.1, 0.8))
    made = augment(torch.full((256, 1, 16, 16), -1.0), changes, generator())
    torch.testing.assert_close(made, torch.full_like(made, -1.0), atol=1e-3, rtol=0)
