"""Counterfactuals: nothing where nothing is asked, and toward the class that is asked for."""

from dataclasses import replace

import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.diffusion.samplers import invert, sample
from diffdx.errors import ConfigError
from diffdx.explain.counterfactual import EditSettings, counterfactuals

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
@pytest.mark.parametrize("method", ["noise", "ddim", "contrast"])
def test_equal_classes_leave_exactly_nothing(setting, guidance, method):
    model, images = setting
    y = torch.tensor([0, 1])
    settings = EditSettings(logsnr_start=-1.0, guidance_scale=guidance, method=method, num_steps=10)
    pair = counterfactuals(model, images, y, y, settings)
    assert (pair.difference == 0).all()
    assert (pair.x_factual != 0).any()


def test_the_factual_image_is_the_image(setting):
    model, images = setting
    y = torch.tensor([0, 1])
    settings = EditSettings(logsnr_start=2.0, guidance_scale=1.0, method="noise")
    pair = counterfactuals(model, images, y, 1 - y, settings)
    # The posterior of N(mu, s^2) around its own mean: a few s.
    torch.testing.assert_close(pair.x_factual, images, atol=5 * STD, rtol=0)


def test_the_difference_is_the_difference_of_the_class_means(setting):
    """From pure noise the ODE maps z to mu_y + s z, so the noise cancels and the means remain."""
    model, images = setting
    y_src, y_cf = torch.tensor([0, 1]), torch.tensor([1, 0])
    settings = EditSettings(logsnr_start=-9.9, guidance_scale=1.0, num_steps=200, method="noise")
    pair = counterfactuals(model, images, y_src, y_cf, settings)
    torch.testing.assert_close(pair.difference, images[y_cf] - images[y_src], atol=0.02, rtol=0)


def from_noise(level, **options):
    return EditSettings(logsnr_start=level, guidance_scale=1.0, method="noise", **options)


def test_more_noise_moves_further_toward_the_target(setting):
    model, images = setting
    y_src, y_cf = torch.tensor([0]), torch.tensor([1])
    toward = images[1:] - images[:1]
    moved = [
        counterfactuals(model, images[:1], y_src, y_cf, from_noise(level)).difference
        for level in (6.0, 2.0, -2.0)
    ]
    along = [float((change * toward).sum() / toward.square().sum()) for change in moved]
    assert 0 <= along[0] < along[1] < along[2] <= 1.05
    for change in moved:
        assert change[..., SIDE // 2 :].abs().max() < 1e-4, "where the classes agree, nothing moves"


@pytest.mark.parametrize(
    ("method", "guidance", "draws", "calls"),
    [
        ("noise", 1.0, 1, 2 * 7),
        ("noise", 2.0, 1, 4 * 7),
        ("noise", 2.0, 3, 3 * 4 * 7),
        ("ddim", 2.0, 1, (3 + 4) * 7),
        ("contrast", 2.0, 1, (6 + 4) * 7),
    ],
)
def test_network_evaluations_are_counted(method, guidance, draws, calls):
    model, images = analytic_model()
    y = torch.tensor([0])
    settings = EditSettings(
        logsnr_start=0.0,
        guidance_scale=guidance,
        method=method,
        draws=draws,
        num_steps=7,
        iterations=3,
    )
    pair = counterfactuals(model, images[:1], y, 1 - y, settings)
    assert pair.nfe == calls == model.calls


def test_the_seed_is_the_noise(setting):
    model, images = setting
    y = torch.tensor([0, 1])

    def factual(seed):
        settings = EditSettings(logsnr_start=-1.0, seed=seed, method="noise")
        return counterfactuals(model, images, y, y, settings).x_factual

    assert torch.equal(factual(0), factual(0))
    assert (factual(0) - factual(1)).abs().max() > 1e-3


@pytest.mark.parametrize("level", [-10.5, 10.0])
def test_a_noise_level_outside_the_schedule_is_refused(setting, level):
    model, images = setting
    y = torch.tensor([0, 1])
    with pytest.raises(ConfigError, match=r"logsnr_start must lie in.*not a time"):
        counterfactuals(model, images, y, y, EditSettings(logsnr_start=level))


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


def far_apart(seed=3):
    """Six different images of the dark class."""
    generator = torch.Generator().manual_seed(seed)
    model, images = analytic_model()
    return model, images[:1] + STD * torch.randn(6, 1, SIDE, SIDE, generator=generator)


@pytest.mark.parametrize("method", ["noise", "ddim", "contrast"])
def test_an_image_does_not_depend_on_its_batch(method):
    model, x = far_apart()
    y = torch.zeros(6, dtype=torch.long)
    settings = EditSettings(logsnr_start=-1.0, method=method, num_steps=10)
    whole = counterfactuals(model, x, y, 1 - y, settings, controls=True)
    for i in (0, 5):
        one = slice(i, i + 1)
        alone = counterfactuals(model, x[one], y[one], 1 - y[one], settings, controls=True)
        for name in ("x_factual", "x_cf", "x_null", "x_back"):
            expected = getattr(whole, name)[one]
            torch.testing.assert_close(getattr(alone, name), expected, atol=2e-5, rtol=0)


def test_draws_are_averaged_and_their_spread_shrinks_no_class_change():
    model, x = far_apart()
    y = torch.zeros(6, dtype=torch.long)
    settings = from_noise(-2.0, num_steps=30, draws=4)
    pair = counterfactuals(model, x, y, 1 - y, settings)
    assert pair.cf_draws.shape == (4, 6, 1, SIDE, SIDE)
    torch.testing.assert_close(pair.cf_draws.mean(dim=0), pair.x_cf)
    # The classes share their covariance, so the noise cancels in the difference and not in the
    # factual image.
    assert pair.spread.max() < 1e-4
    assert pair.factual_draws.std(dim=0).mean() > 0.2 * STD
    first = counterfactuals(model, x, y, 1 - y, replace(settings, draws=1))
    torch.testing.assert_close(first.x_cf, pair.cf_draws[0], atol=2e-5, rtol=0)


def test_inversion_keeps_the_image_and_moves_it_by_the_class_means():
    """The flow keeps (z - alpha mu) / sd, so inverting under A and denoising under B adds up to

    x + (1 - alpha_t s / sd_t)(mu_B - mu_A) with sd_t^2 = alpha_t^2 s^2 + sigma_t^2.
    """
    model, x = far_apart()
    y = torch.zeros(6, dtype=torch.long)
    level = torch.tensor(-2.0)
    settings = EditSettings(logsnr_start=-2.0, guidance_scale=1.0, method="ddim", num_steps=200)
    pair = counterfactuals(model, x, y, 1 - y, settings, controls=True)
    # First-order steps that undo each other: what is left is the fixed point's remainder.
    torch.testing.assert_close(pair.x_factual, x, atol=0.01, rtol=0)
    torch.testing.assert_close(pair.x_null, x, atol=0.01, rtol=0)
    torch.testing.assert_close(pair.x_back, x, atol=0.03, rtol=0)
    alpha2, sigma2 = torch.sigmoid(level), torch.sigmoid(-level)
    kept = (alpha2 * STD**2 / (alpha2 * STD**2 + sigma2)).sqrt()
    means = model.transform.decode(model.denoiser.means)
    expected = x + (1 - kept) * (means[1:2] - means[:1])
    torch.testing.assert_close(pair.x_cf, expected, atol=0.02, rtol=0)


def test_more_iterations_invert_better():
    model, x = far_apart()
    z, y = model.transform.encode(x), torch.zeros(6, dtype=torch.long)
    left = []
    for iterations in (1, 2, 4):
        up = invert(
            model, model.schedule, z, y, logsnr_start=-2.0, num_steps=20, iterations=iterations
        )
        down = sample(model, model.schedule, up, y, null_label=2, logsnr_start=-2.0, num_steps=20)
        left.append(float((down - z).abs().max()))
    assert left[0] > 2 * left[1] > 4 * left[2]


def test_the_return_undoes_the_edit_as_far_as_the_null_edit_goes():
    model, x = far_apart()
    y = torch.zeros(6, dtype=torch.long)
    settings = from_noise(-2.0, num_steps=100)
    pair = counterfactuals(model, x, y, 1 - y, settings, controls=True)
    assert torch.equal(pair.x_null, pair.x_factual), "unguided, the factual is the null edit"
    back = (pair.x_back - x).abs().mean()
    assert back < 2 * (pair.x_null - x).abs().mean() < (pair.x_cf - x).abs().mean()


def test_the_trajectory_ends_at_the_counterfactual():
    model, x = far_apart()
    y = torch.zeros(6, dtype=torch.long)
    settings = EditSettings(logsnr_start=-2.0, num_steps=9, draws=2, method="noise")
    pair = counterfactuals(model, x, y, 1 - y, settings, trajectory=True)
    assert len(pair.trajectory) == 9
    torch.testing.assert_close(pair.trajectory[-1], pair.cf_draws[0])


def test_the_callers_state_is_untouched():
    model, x = far_apart()
    model.train()
    model.denoiser.eval()
    modes = [module.training for module in model.modules()]
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    y = torch.zeros(6, dtype=torch.long)
    settings = EditSettings(logsnr_start=-1.0, num_steps=3)
    with torch.enable_grad():
        pair = counterfactuals(model, x.requires_grad_(), y, 1 - y, settings, controls=True)
        assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert x.grad is None
    assert not pair.x_cf.requires_grad


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guidance_scale": 0.0}, "--guidance 0: use more than 0"),
        ({"guidance_scale": 1e6}, "at most 20"),
        ({"guidance_scale": float("nan")}, "--guidance nan"),
        ({"num_steps": 0}, "--steps 0"),
        ({"draws": 0}, "--draws 0"),
        ({"method": "ddim", "draws": 2}, "inversion has no noise to draw"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        EditSettings(**options)
