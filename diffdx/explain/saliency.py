"""Saliency of a convolutional baseline: what evidence maps are compared with. Extra `compare`.

    Grad-CAM               relu( sum_d mean_hw(d s_y / d A_d) A_d )   at a layer A, brought to the
                           image's size by linear interpolation          (Selvaraju et al. 2017)
    integrated gradients   (x - x_0) integral_0^1 d s_y / d x (x_0 + a (x - x_0)) da
                           with x_0 black, summed over the channels   (Sundararajan et al. 2017)

s_y is the logit of class y. Both are captum's. Grad-CAM has no negative part; integrated gradients
have one, and sum to the difference of the logits of x and x_0.
"""

from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from diffdx._tensors import ClassIds, Images
from diffdx.errors import ConfigError

Maps = Float[np.ndarray, "B H W"]


def grad_cam(model: nn.Module, layer: nn.Module, x: Images, y: ClassIds) -> Maps:
    """Return the Grad-CAM map of each image for its class, >= 0, in the image's size.

    Args:
        model: Images in model range to logits, in eval mode.
        layer: One of its layers, whose output is (B, D, h, w): `Baseline.feature_layer`.
        x: Images in model range.
        y: The class whose logit is explained, for each image.

    Raises:
        ConfigError: if captum is not installed.
        ValueError: if the model is in training mode.
    """
    attr = _captum()
    _require_eval_mode(model)
    # Without it a model of frozen weights would have no graph to differentiate.
    x = x.detach().clone().requires_grad_()
    coarse = attr.LayerGradCam(model, layer).attribute(x, target=y, relu_attributions=True)
    size = (x.shape[2], x.shape[3])
    fine = attr.LayerAttribution.interpolate(coarse, size, interpolate_mode="bilinear")
    maps: np.ndarray = fine.detach().sum(dim=1).cpu().numpy()
    return maps


def integrated_gradients(model: nn.Module, x: Images, y: ClassIds, *, num_steps: int = 32) -> Maps:
    """Return the integrated gradients of each image for its class, signed, summed over channels.

    Args:
        model: Images in model range to logits, in eval mode.
        x: Images in model range.
        y: The class whose logit is explained, for each image.
        num_steps: Points of the integral, each one forward and one backward pass.

    Raises:
        ConfigError: if captum is not installed.
        ValueError: if the model is in training mode.
    """
    attr = _captum()
    _require_eval_mode(model)
    values = attr.IntegratedGradients(model).attribute(
        x.detach().clone(), baselines=torch.full_like(x, -1), target=y, n_steps=num_steps
    )
    maps: np.ndarray = values.detach().sum(dim=1).cpu().numpy()
    return maps


def _require_eval_mode(model: nn.Module) -> None:
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model is in training mode, where an image's map depends on its batch; "
            "call model.eval() first"
        )


def _captum() -> ModuleType:
    try:
        return import_module("captum.attr")
    except ImportError as error:
        raise ConfigError(
            "saliency maps need captum: pip install 'diffdx[compare]', and try again"
        ) from error
