"""Guidance between two classes: an edit and its return are inverse, on exact denoisers."""

import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.backbones.model import DiffusionModel
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.explain.contrast import contrasted
from diffdx.explain.counterfactual import EditSettings, counterfactuals

SIDE = 8


@pytest.fixture(scope="module")
def setting():
    """Classes that are dark and bright in the left half, with the exact denoiser."""
    config = ModelConfig(
        data=DataConfig(image_size=SIDE),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    model = DiffusionModel(config, ("DARK", "BRIGHT"), "BRIGHT")
    images = torch.zeros(2, 1, SIDE, SIDE)
    images[0, ..., : SIDE // 2], images[1, ..., : SIDE // 2] = -0.3, 0.3
    model.denoiser = GaussianClasses(model.transform.encode(images), 0.2)
    model.anchor = torch.nn.Parameter(torch.zeros(1))  # tells the device, which it has not
    noise = 0.1 * torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return model.eval(), images + noise


def edited(setting, method, scale, y_cf=(1, 0)):
    model, x = setting
    edit = EditSettings(method=method, logsnr_start=-2.0, guidance_scale=scale, num_steps=40)
    return counterfactuals(model, x, torch.tensor([0, 1]), torch.tensor(y_cf), edit, controls=True)


def test_it_is_its_formula():
    z, logsnr, y = torch.ones(2, 1, 1, 1), torch.zeros(2), torch.tensor([0, 1])
    call = contrasted(lambda z, t, y: z * (y + 1.0).view(-1, 1, 1, 1), 1 - y, 3.0)
    # Estimates 1 and 2: 2 + 3 (1 - 2) and 1 + 3 (2 - 1).
    assert call(z, logsnr, y).flatten().tolist() == [-1.0, 4.0]


def test_scale_one_is_plain_inversion(setting):
    plain, contrast = (edited(setting, method, 1.0) for method in ("ddim", "contrast"))
    for name in ("x_factual", "x_cf", "x_null", "x_back"):
        assert torch.equal(getattr(plain, name), getattr(contrast, name))


def test_equal_classes_are_not_edited_at_any_scale(setting):
    made = edited(setting, "contrast", 4.0, y_cf=(0, 1))
    assert (made.difference == 0).all()
    torch.testing.assert_close(made.x_factual, made.x_null, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_edit_leads_back_whatever_the_scale(setting, scale):
    _, x = setting
    made = edited(setting, "contrast", scale)
    moved = (made.x_cf - x).abs().mean()
    for same in (made.x_back, made.x_factual):
        assert (same - x).abs().mean() < 0.05 * moved


def test_more_scale_moves_further_and_only_where_the_classes_differ(setting):
    model, _ = setting
    mean = model.transform.decode(model.denoiser.means)
    toward = (mean[1] - mean[0]).sign()
    moves = [edited(setting, "contrast", s).difference for s in (1.0, 2.0, 3.0)]
    along = [float((m[0] * toward).sum()) for m in moves]
    assert 0 < along[0] < along[1] < along[2]
    for move in moves:
        assert move[..., SIDE // 2 :].abs().max() < 1e-4


def test_network_evaluations_are_counted(setting):
    model, x = setting
    calls = 0
    inner = model.denoiser.forward

    def counted(z_t, logsnr, y):
        nonlocal calls
        calls += len(z_t)
        return inner(z_t, logsnr, y)

    model.denoiser.forward = counted
    try:
        assert edited(setting, "contrast", 2.0).nfe == calls // len(x)
    finally:
        model.denoiser.forward = inner
