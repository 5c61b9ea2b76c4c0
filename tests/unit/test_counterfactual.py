"""Counterfactuals: nothing where nothing is asked, and toward the class that is asked for."""

import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.explain.counterfactual import counterfactuals

STD = 0.1
SIDE = 8


def analytic_model():
    """A model whose classes are dark and bright in the left half, with the exact denoiser."""
    config = ModelConfig(
        data=DataConfig(image_size=SIDE),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    model = DiffusionModel(config, ("DARK", "BRIGHT"), "BRIGHT")
    images = torch.zeros(2, 1, SIDE, SIDE)
    images[0, ..., : SIDE // 2], images[1, ..., : SIDE // 2] = -0.5, 0.5
    model.denoiser = GaussianClasses(model.transform.encode(images), STD)
    # The device of a model is that of its parameters, and the exact denoiser has none.
    model.anchor = torch.nn.Parameter(torch.zeros(1))
    model.calls = 0
    inner = model.denoiser.forward

    def counted(z_t, logsnr, y):
        model.calls += len(z_t)
        return inner(z_t, logsnr, y)

    model.denoiser.forward = counted
    return model.eval(), images


@pytest.fixture(scope="module")
def setting():
    return analytic_model()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_equal_classes_leave_exactly_nothing(setting, guidance):
    model, images = setting
    y = torch.tensor([0, 1])
    pair = counterfactuals(model, images, y, y, logsnr_start=-1.0, guidance_scale=guidance)
    assert (pair.difference == 0).all()
    assert (pair.x_factual != 0).any()


def test_the_factual_image_is_the_image(setting):
    model, images = setting
    y = torch.tensor([0, 1])
    pair = counterfactuals(model, images, y, 1 - y, logsnr_start=2.0, guidance_scale=1.0)
    # The posterior of N(mu, s^2) around its own mean: a few s.
    torch.testing.assert_close(pair.x_factual, images, atol=5 * STD, rtol=0)


def test_the_difference_is_the_difference_of_the_class_means(setting):
    """From pure noise the ODE maps z to mu_y + s z, so the noise cancels and the means remain."""
    model, images = setting
    y_src, y_cf = torch.tensor([0, 1]), torch.tensor([1, 0])
    pair = counterfactuals(
        model, images, y_src, y_cf, logsnr_start=-9.9, guidance_scale=1.0, num_steps=200
    )
    torch.testing.assert_close(pair.difference, images[y_cf] - images[y_src], atol=0.02, rtol=0)


def test_more_noise_moves_further_toward_the_target(setting):
    model, images = setting
    y_src, y_cf = torch.tensor([0]), torch.tensor([1])
    toward = images[1:] - images[:1]
    moved = [
        counterfactuals(
            model, images[:1], y_src, y_cf, logsnr_start=level, guidance_scale=1.0
        ).difference
        for level in (6.0, 2.0, -2.0)
    ]
    along = [float((change * toward).sum() / toward.square().sum()) for change in moved]
    assert 0 <= along[0] < along[1] < along[2] <= 1.05
    for change in moved:
        assert change[..., SIDE // 2 :].abs().max() < 1e-4, "where the classes agree, nothing moves"


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 2 * 7), (2.0, 4 * 7)])
def test_network_evaluations_are_counted(guidance, calls):
    model, images = analytic_model()
    y = torch.tensor([0])
    pair = counterfactuals(
        model, images[:1], y, 1 - y, logsnr_start=0.0, guidance_scale=guidance, num_steps=7
    )
    assert pair.nfe == calls == model.calls


def test_the_seed_is_the_noise(setting):
    model, images = setting
    y = torch.tensor([0, 1])

    def factual(seed):
        return counterfactuals(model, images, y, y, logsnr_start=-1.0, seed=seed).x_factual

    assert torch.equal(factual(0), factual(0))
    assert (factual(0) - factual(1)).abs().max() > 1e-3


@pytest.mark.parametrize("level", [-10.5, 10.0])
def test_a_noise_level_outside_the_schedule_is_refused(setting, level):
    model, images = setting
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="logsnr_start must lie in"):
        counterfactuals(model, images, y, y, logsnr_start=level)


def test_generated_images_are_of_their_class(setting):
    model, _ = setting
    y = torch.tensor([0, 1, 0, 1])
    x = generate(model, y, num_steps=100)
    left = x[..., : SIDE // 2].mean(dim=(1, 2, 3))
    # The mean of 32 pixels of N(mu, s^2): five standard errors, and the sampler's own error.
    tolerance = 5 * STD / 32**0.5 + 0.02
    torch.testing.assert_close(left, torch.tensor([-0.5, 0.5, -0.5, 0.5]), atol=tolerance, rtol=0)


def test_two_labels_share_their_draws(setting):
    model, _ = setting
    dark, bright = (generate(model, torch.full((2,), k), num_steps=100) for k in (0, 1))
    right = slice(SIDE // 2, None)
    torch.testing.assert_close(dark[..., right], bright[..., right], atol=1e-4, rtol=0)


def test_ancestral_sampling_reaches_the_same_class_means(setting):
    model, _ = setting
    x = generate(model, torch.tensor([0, 1]), num_steps=100, method="ddpm")
    left = x[..., : SIDE // 2].mean(dim=(1, 2, 3))
    tolerance = 5 * STD / 32**0.5 + 0.02
    torch.testing.assert_close(left, torch.tensor([-0.5, 0.5]), atol=tolerance, rtol=0)
