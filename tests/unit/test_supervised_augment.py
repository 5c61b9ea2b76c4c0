"""The baselines' augmentations: torchvision's blur, flips half of the time, the generator alone."""

import pytest
import torch

from diffdx.baseline_config import NO_AUGMENTATION, SupervisedAugmentConfig
from diffdx.transforms.supervised import augment_supervised, gaussian_blur


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, size=16):
    return torch.rand(n, 1, size, size, generator=generator(1)) * 2 - 1


def test_the_blur_is_torchvisions():
    from torchvision.transforms.v2.functional import gaussian_blur as reference

    x, sigma = images(), torch.tensor([0.1, 0.7, 1.3, 2.0])
    expected = [reference(x[i], [5, 5], [s.item()] * 2) for i, s in enumerate(sigma)]
    torch.testing.assert_close(gaussian_blur(x, sigma), torch.stack(expected), rtol=0, atol=1e-6)


def test_nothing_asked_changes_nothing():
    x = images()
    assert torch.equal(
        augment_supervised(x, SupervisedAugmentConfig(**NO_AUGMENTATION), generator()), x
    )


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_mirrors_about_half_of_the_images_exactly(name, axis):
    x = images(400, 8)
    config = SupervisedAugmentConfig(**NO_AUGMENTATION | {name: True})
    made = augment_supervised(x, config, generator())
    # The affine map of a horizontal flip resamples, and rounds.
    mirrored = (made - x.flip(axis)).abs().amax(dim=(1, 2, 3)) < 1e-5
    kept = (made - x).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (mirrored ^ kept).all()
    # 400 draws at one half: standard error 2.5%, four of them.
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_the_changes_are_the_generators_and_nobody_elses():
    x, config = images(), SupervisedAugmentConfig()
    before = torch.get_rng_state()
    one = augment_supervised(x, config, generator())
    assert torch.equal(one, augment_supervised(x, config, generator()))
    assert not torch.equal(one, augment_supervised(x, config, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.abs().max() <= 1
