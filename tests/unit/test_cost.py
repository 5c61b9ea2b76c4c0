"""What a dry run says of a model's cost, against counts by hand."""

import pytest
import torch

from diffdx.backbones.cost import model_cost
from diffdx.backbones.model import DiffusionModel
from diffdx.config import resolve_config


def test_parameters_are_counted_and_memory_follows():
    config = resolve_config("tiny").model
    cost = model_cost(config, 2)
    count = sum(p.numel() for p in DiffusionModel(config, ("A", "B")).parameters())
    assert cost.parameters == count
    assert cost.input_shape == (4, 16, 16)
    assert cost.weights_gib * 2**30 == pytest.approx(4 * count)
    assert cost.training_gib == pytest.approx(5 * cost.weights_gib)


def test_operations_of_one_convolution_by_hand():
    """Without blocks' inner layers known, a change of one is: a channel more at the input."""
    one, three = (
        model_cost(
            resolve_config("tiny", assignments=(f"model.data.channels={c}",)).model, 2
        ).gflop_per_call
        for c in (1, 3)
    )
    # conv_in and conv_out: 3 x 3, 32 wide, 16 x 16 pixels, 8 more of 4 x channels, two operations.
    by_hand = 2 * 2 * 9 * 32 * 8 * 16 * 16 / 1e9
    assert three - one == pytest.approx(by_hand, rel=1e-6)


def test_the_papers_networks_cost_what_the_specification_says():
    """Spec section 2."""
    unet, dit = (model_cost(resolve_config(f"paper-{n}").model, 2) for n in ("unet", "dit"))
    assert unet.gflop_per_call == pytest.approx(176.5, abs=0.05)
    assert dit.gflop_per_call == pytest.approx(213, abs=0.5)


def test_activations_grow_with_the_pixels_and_no_storage_is_used():
    small, large = (
        model_cost(
            resolve_config("tiny", options={"model.data.image_size": side}).model, 2
        ).activations_gib
        for side in (32, 64)
    )
    # Attention's square grows faster, everything else by 4; embeddings do not.
    assert 3.5 * small < large < 4.5 * small
    assert torch.empty(0).device.type == "cpu", "the meta device does not stay the default"
