"""Random changes of training images: exact where the map is exact, repeatable, within range."""

import math

import pytest
import torch

from diffdx.config import AugmentConfig
from diffdx.transforms import augment as module
from diffdx.transforms.augment import augment, random_affine

NOTHING = AugmentConfig(rotate_degrees=0, zoom=0, shift=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=4, side=8, channels=2):
    return torch.rand(count, channels, side, side, generator=generator(1)) * 2 - 1


def warp(x, rows, monkeypatch):
    """Return x under one chosen affine map in place of a random one."""
    theta = torch.tensor(rows).expand(len(x), 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "random_affine", lambda *_: theta)
        return augment(x, NOTHING, generator())


def test_nothing_asked_for_changes_nothing():
    x = images()
    torch.testing.assert_close(augment(x, NOTHING, generator()), x, atol=1e-5, rtol=0)


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


def test_flips_are_mirrored_images_and_come_half_the_time():
    x = images(count=400, side=4)
    flipped = augment(x, NOTHING.model_copy(update={"flip": True}), generator())
    is_mirror = (flipped - x.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    is_same = (flipped - x).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (is_mirror ^ is_same).all()
    # Four standard errors of a share of 1/2 among 400.
    assert abs(is_mirror.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(400)


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


def test_an_image_depends_on_the_generator_alone():
    x, config = images(), AugmentConfig()
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
