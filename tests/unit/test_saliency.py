"""Saliency maps on networks whose maps are known in closed form."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from diffdx.errors import ConfigError

pytest.importorskip("captum", reason="extra `compare` is not installed")
from diffdx.explain.saliency import grad_cam, integrated_gradients

SIDE = 16


class Linear(nn.Module):
    """Logit k is the mean of a 4 x 4 average pooling of the image times a weight of its own."""

    def __init__(self):
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.weight = nn.Parameter(torch.tensor([-1.0, 2.0]))

    def forward(self, x):
        return self.features(x).mean(dim=(1, 2, 3))[:, None] * self.weight


@pytest.fixture
def model():
    return Linear().eval()


@pytest.fixture
def x():
    x = torch.full((2, 1, SIDE, SIDE), 0.1)
    x[0, 0, 8:12, 4:8] = 0.9
    x[1, 0, 0:4, 12:16] = 0.9
    return x


def test_integrated_gradients_of_a_linear_network_are_weight_times_input(model, x):
    y = torch.tensor([1, 0])
    maps = integrated_gradients(model, x, y, num_steps=4)
    # The baseline is black, -1; each pixel has a share 1 / SIDE^2 in the mean.
    weight = torch.tensor([2.0, -1.0]).view(2, 1, 1)
    expected = ((x[:, 0] + 1) * weight / SIDE**2).numpy()
    np.testing.assert_allclose(maps, expected, rtol=1e-4)


def test_integrated_gradients_sum_to_the_change_of_the_logit(x):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    ).eval()
    y = torch.tensor([0, 1])
    maps = integrated_gradients(network, x, y, num_steps=200)
    with torch.no_grad():
        change = (network(x) - network(torch.full_like(x, -1)))[torch.arange(2), y]
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), change.numpy(), atol=1e-3)


def test_grad_cam_peaks_where_the_features_of_the_class_are(model, x):
    maps = grad_cam(model, model.features, x, torch.tensor([1, 1]))
    assert maps.shape == (2, SIDE, SIDE)
    rows, columns = np.divmod(maps.reshape(2, -1).argmax(axis=1), SIDE)
    assert 8 <= rows[0] < 12
    assert 4 <= columns[0] < 8
    assert rows[1] < 4
    assert columns[1] >= 12


def test_grad_cam_has_nothing_where_every_feature_speaks_against_the_class(model, x):
    assert (grad_cam(model, model.features, x, torch.tensor([0, 0])) == 0).all()


def test_weights_gradients_and_random_state_are_left_alone(model, x):
    model.weight.requires_grad_(False)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        grad_cam(model, model.features, x, torch.tensor([1, 1]))
        integrated_gradients(model, x, torch.tensor([1, 1]), num_steps=2)
        assert not torch.is_grad_enabled()
    assert model.weight.grad is None
    assert not model.weight.requires_grad
    assert not model.training
    assert not x.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_in_training_mode_is_refused(model, x):
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        grad_cam(model, model.features, x, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="training mode"):
        integrated_gradients(model, x, torch.tensor([1, 1]))


def test_without_captum_the_extra_is_named(model, x, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffdx\[compare\]'"):
        grad_cam(model, model.features, x, torch.tensor([1, 1]))
