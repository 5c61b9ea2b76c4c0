"""Recipes: each deviation of the paper and of its release equals the formula that names it."""

import math

import pytest
import torch

from diffdx.backbones.model import DiffusionModel
from diffdx.backbones.parts import build_schedule
from diffdx.config import PRESETS, RunConfig, resolve_config
from diffdx.diffusion.guidance import guided_v
from diffdx.diffusion.loss import drop_labels
from diffdx.diffusion.weighting import v_weight
from diffdx.errors import ConfigError
from diffdx.presets import RECIPES
from diffdx.transforms.augment import augment
from diffdx.transforms.coordinates import Coordinates
from diffdx.transforms.haar import haar_dwt

NETWORKS = pytest.mark.parametrize("network", ["paper-unet", "paper-dit"])
TIMES = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)


def levels(recipe, network="paper-unet"):
    config = resolve_config(network, recipe=recipe).model
    return build_schedule(config.schedule).logsnr(TIMES)


def test_the_schedule_of_the_paper():
    """Spec section 1: shift 2 log(64 / 256), bounds +-15, warped and not moved."""
    shift = 2 * math.log(64 / 256)
    a, b = math.atan(math.exp(-(15 - shift) / 2)), math.atan(math.exp((15 + shift) / 2))
    expected = -2 * torch.log(torch.tan(a + TIMES * (b - a))) + shift
    torch.testing.assert_close(levels("paper"), expected, atol=1e-9, rtol=0)


def test_the_schedule_of_the_release():
    """Spec section 1: values at t = .1 .3 .5 .7 .9 and the real range [-19.16, 10.84]."""
    measured = torch.tensor([0.90, -1.43, -2.77, -4.12, -6.46], dtype=torch.float64)
    torch.testing.assert_close(levels("release"), measured, atol=0.005, rtol=0)
    schedule = build_schedule(resolve_config("paper-unet", recipe="release").model.schedule)
    assert schedule.logsnr_min == pytest.approx(-19.16, abs=0.005)
    assert schedule.logsnr_max == pytest.approx(10.84, abs=0.005)


def test_the_schedule_of_fixed():
    """A plain cosine between +-10, the same at every size."""
    a = math.atan(math.exp(-5))
    expected = -2 * torch.log(torch.tan(a + TIMES * (math.pi / 2 - 2 * a)))
    for network in ("small", "small-dit", "paper-unet"):
        torch.testing.assert_close(levels("fixed", network), expected, atol=1e-9, rtol=0)


def test_the_shift_follows_the_image_size():
    for recipe in ("paper", "release"):
        small = resolve_config("small-dit", recipe=recipe).model.schedule
        assert (small.shift, small.logsnr_min, small.logsnr_max) == (0, -15, 15)
        other = resolve_config("small", recipe=recipe, options={"model.data.image_size": 128})
        assert other.model.schedule.shift == pytest.approx(2 * math.log(0.5))


def test_the_loss_weights():
    """Spec section 1: min-SNR against 1 / (1 + min(snr, 5)) on the eps error."""
    logsnr = torch.linspace(-12, 12, 49, dtype=torch.float64)
    snr = logsnr.exp()
    to_v = snr / (snr + 1)  # |eps error|^2 = alpha^2 |v error|^2
    by_formula = {
        "paper": snr.clamp(max=5) / (snr + 1),
        "fixed": snr.clamp(max=5) / snr * to_v,
        "release": to_v / (1 + snr.clamp(max=5)),
    }
    for recipe, expected in by_formula.items():
        train = resolve_config("paper-unet", recipe=recipe).train
        weight = v_weight(logsnr, train.weighting, gamma=train.min_snr_gamma)
        torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(v_weight(logsnr, "uniform_eps"), to_v)


def test_the_wavelet_scaling():
    """Orthonormal in the paper, halved in the release, of unit variance in fixed."""
    x = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bands = haar_dwt(x)
    for recipe, expected in (("paper", bands), ("release", bands / 2)):
        data = resolve_config("paper-unet", recipe=recipe).model.data
        coordinates = Coordinates(data.channels, data.wavelet, data.band_scaling)
        coordinates.fit(x)
        torch.testing.assert_close(coordinates.encode(x), expected)
        torch.testing.assert_close(coordinates.decode(expected), x, atol=1e-6, rtol=0)
    data = resolve_config("paper-unet", recipe="fixed").model.data
    assert data.band_scaling == "unit_variance"


def test_half_the_bands_is_a_shift_of_the_log_snr_in_pixels():
    """z = alpha x / 2 + sigma eps has a signal to noise ratio 4 times smaller: as if d = 512."""
    at_half = float(levels("release")[2]) - 2 * math.log(2)
    assert at_half == pytest.approx(-4.16, abs=0.005)
    assert at_half == pytest.approx(2 * math.log(64 / 512), abs=0.005)


@NETWORKS
def test_the_dropout_rates(network):
    rates = {"paper": 0.1, "fixed": 0.1, "release": 0.15 if "unet" in network else 0.235}
    # The release's transformer drops 15%, then each block 10% of what is left.
    kept = (1 - 0.15) * (1 - 0.1)
    assert 1 - kept == pytest.approx(0.235)
    y, count = torch.zeros(40_000, dtype=torch.int64), 40_000
    for recipe, rate in rates.items():
        train = resolve_config(network, recipe=recipe).train
        assert train.label_dropout == rate
        dropped = drop_labels(y, 2, train.label_dropout, torch.Generator().manual_seed(3))
        share = (dropped == 2).double().mean().item()
        assert share == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / count))


@NETWORKS
def test_the_guidance_convention_and_the_start_of_an_edit(network):
    """s = 1 + w (paper Eq. 5): null + s (own - null) = (1 + w) own - w null."""
    w = 4.5 if "unet" in network else 3.5
    edit = resolve_config(network, recipe="release").model.edit
    assert edit.guidance_scale == 1 + w

    def predict(z_t, logsnr, y):
        return torch.where(y == 2, 3.0, 5.0).view(-1, 1, 1, 1).expand_as(z_t)

    z_t, logsnr, y = torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.tensor([0])
    guided = guided_v(predict, z_t, logsnr, y, null_label=2, guidance_scale=edit.guidance_scale)
    assert guided.item() == pytest.approx((1 + w) * 5 - w * 3)
    for recipe in ("paper", "release"):
        start = resolve_config(network, recipe=recipe).model.edit.logsnr_start
        assert start == pytest.approx(float(levels(recipe)[2]), abs=0.01), "t = 0.5"


@NETWORKS
def test_the_optimiser(network):
    """Paper appendix B.1; the release warms its UNet up over 100 steps."""
    for recipe in ("paper", "release"):
        train = resolve_config(network, recipe=recipe).train
        warmup = 100 if (recipe, network) == ("release", "paper-unet") else 250
        assert (train.batch_size, train.learning_rate, train.grad_clip) == (128, 1e-4, 1.0)
        assert train.warmup_steps == warmup
        ema = train.ema
        assert (ema.beta, ema.update_after_step, ema.update_every) == (0.999, 50, 5)
        assert ema.class_embedding == (recipe == "paper")


def test_fixed_is_the_default_and_the_papers_presets_are_the_papers():
    assert resolve_config("small") == resolve_config("small", recipe="fixed")
    assert resolve_config("small").recipe == "fixed"
    assert resolve_config("paper-dit") == resolve_config("paper-dit", recipe="paper")
    assert resolve_config("small", recipe="denoising").train == RunConfig().train
    assert resolve_config("small").model.schedule == RunConfig().model.schedule


def test_denoising_is_fixed_without_the_contrastive_term_and_changes_of_looks():
    plain, fixed = (resolve_config("small", recipe=name) for name in ("denoising", "fixed"))
    assert (plain.train.contrastive_weight, fixed.train.contrastive_weight) == (0, 0.1)
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = {"rotate_degrees": 0, "zoom": 0, "shift": 0}
    for config, changes in ((plain, False), (fixed, True)):
        config = config.train.augment.model_copy(update=still)
        changed = augment(x, config, torch.Generator().manual_seed(1))
        assert torch.equal(changed, x) != changes
    different = {"augment", "contrastive_weight"}
    assert plain.train.model_dump(exclude=different) == fixed.train.model_dump(exclude=different)


@pytest.mark.parametrize("network", ["small-dit", "small-unet"])
def test_fixed_is_denoising_for_networks_that_gain_nothing_by_the_term(network):
    configs = [resolve_config(network, recipe=name) for name in ("fixed", "denoising")]
    assert configs[0].train == configs[1].train


def test_what_was_trained_with_a_contrastive_term_is_edited_without_guidance():
    scale = {r: resolve_config("small", recipe=r).model.edit.guidance_scale for r in RECIPES}
    assert scale == {"fixed": 1, "denoising": None, "paper": None, "release": 5.5}
    asked = ("model.edit.guidance_scale=2", "train.contrastive_weight=0.2")
    for assignments, expected in ((asked, 2), (asked[1:], 1)):
        config = resolve_config("small", recipe="denoising", assignments=assignments)
        assert config.model.edit.guidance_scale == expected


def test_a_recipe_gives_way_to_what_was_asked_for(tmp_path):
    file = tmp_path / "given.yaml"
    file.write_text("recipe: release\ntrain: {label_dropout: 0.3}\nmodel: {schedule: {shift: 1.0}}")
    config = resolve_config("small-unet", file=file, assignments=("train.warmup_steps=7",))
    assert (config.recipe, config.train.label_dropout, config.train.warmup_steps) == (
        "release",
        0.3,
        7,
    )
    schedule = config.model.schedule
    assert (schedule.shift, schedule.logsnr_max) == (1.0, 15.0), "a file keeps what it leaves out"


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'best'; choose one of fixed, denoising, paper, release"
    ):
        resolve_config("small", recipe="best")
    with pytest.raises(ConfigError, match="unknown recipe"):
        resolve_config("small", assignments=("recipe=[1]",))


@pytest.mark.parametrize("preset", ["small-unet", "small-dit"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_small_siblings_build_in_every_recipe(preset, recipe):
    config = resolve_config(preset, recipe=recipe)
    with torch.device("meta"):
        model = DiffusionModel(config.model, ("A", "B"))
    assert model.shape == (4, 32, 32)
    assert type(model.denoiser) is type(_paper_sized(preset.replace("small", "paper")))


def _paper_sized(preset):
    with torch.device("meta"):
        return DiffusionModel(resolve_config(preset).model, ("A", "B")).denoiser


def test_every_preset_resolves_in_every_recipe():
    for preset in PRESETS:
        for recipe in RECIPES:
            assert resolve_config(preset, recipe=recipe).preset == preset


def test_a_discrete_schedule_and_a_foreign_network_go_together():
    with pytest.raises(ConfigError, match="go together"):
        resolve_config("small", assignments=("model.schedule={name: discrete}",))
    with pytest.raises(ConfigError, match=r"model\.backbone\.base: Field required"):
        resolve_config("stable-diffusion")
