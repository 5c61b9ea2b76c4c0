"""The loops that the engine is compared with do what they are taken for, and the roof is right."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdx.backbones.analytic import GaussianClasses
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.voting import majority_vote
from diffdx.config import DataConfig, ModelConfig, UNetConfig, resolve_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIDE, STD, TRIALS = 8, 0.5, 1500


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def oracle():
    """Two Gaussian classes, exactly denoised, and the size of each call of the network."""
    config = ModelConfig(
        data=DataConfig(image_size=SIDE, wavelet="none", band_scaling="none"),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    model = DiffusionModel(config, ("A", "B"))
    means = torch.stack([torch.full((1, SIDE, SIDE), 0.1), torch.full((1, SIDE, SIDE), -0.1)])
    model.denoiser = GaussianClasses(means, STD)
    calls = []
    model.denoiser.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    return model, means, calls


def expected_share(model, means, x):
    """Vote share of class A over t ~ U(0, 1): the mean of the closed form in `analytic`."""
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    gap = (x - means[1]).square().sum() - (x - means[0]).square().sum()
    scale = 2 * STD**2 * (means[0] - means[1]).norm()
    z = torch.exp(-model.schedule.logsnr(t) / 2) * gap / scale
    return float((0.5 * (1 + torch.erf(z / math.sqrt(2)))).mean())


@pytest.mark.parametrize("way", ["appendix_a", "one_by_one"])
@torch.no_grad()
def test_votes_come_as_often_as_the_exact_predictor_says(way):
    model, means, calls = oracle()
    torch.manual_seed(0)
    x = torch.stack([means[0], means[1], 0.1 * means[0]])
    loops = script("loops")
    if way == "appendix_a":
        errors = loops.appendix_a(model, x, TRIALS)
        assert calls == [len(x)] * (2 * TRIALS), "a call for each trial and class"
    else:
        errors = loops.one_by_one(model, x, TRIALS, rows=64)
        assert sum(calls) == errors.size == 2 * 3 * TRIALS
        assert set(calls) <= {64, 2 * (TRIALS % 32)}
    share = majority_vote(errors)[:, 0] / TRIALS
    expected = np.array([expected_share(model, means, image) for image in x])
    assert ((expected > 0.02) & (expected < 0.98)).all(), "shares that could be wrong"
    # Four standard errors of a binomial share.
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / TRIALS)).all()


def test_the_roof_counts_shared_layers_once():
    """Spec section 2: 176.5 GFLOP, of which 17.4% are the same for both classes."""
    gflop = script("roofline").gflop_per_call(resolve_config("paper-unet").model)
    assert gflop["alone"] == pytest.approx(176.5, abs=0.05)
    assert gflop["shared"] / gflop["alone"] == pytest.approx(1 - 0.174 / 2, abs=0.0005)
