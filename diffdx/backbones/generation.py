"""Generation with a whole model: from labels to images in model range."""

import torch

from diffdx._device import Precision, autocast
from diffdx._random import philox_normal, purpose_key
from diffdx._tensors import ClassIds, Images, Times
from diffdx.backbones.model import DiffusionModel
from diffdx.diffusion.loss import VPredictor
from diffdx.diffusion.samplers import Method, sample


def predictor(model: DiffusionModel, precision: Precision) -> VPredictor:
    """Return the model's denoiser call, run in this precision on the model's device."""
    device = next(model.parameters()).device

    def predict_v(z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        with autocast(device, precision):
            v_hat: Images = model(z_t, logsnr, y)
        return v_hat

    return predict_v


def generation_noise(model: DiffusionModel, count: int, seed: int) -> Images:
    """Return `count` standard normal images in network coordinates, a function of the seed."""
    key = torch.full((count,), purpose_key(seed, "generation"))
    return philox_normal(key, torch.arange(count), model.shape, next(model.parameters()).device)


def generate(
    model: DiffusionModel,
    y: ClassIds,
    *,
    seed: int = 0,
    num_steps: int = 50,
    guidance_scale: float = 1.0,
    method: Method = "ddim",
    precision: Precision = "fp32",
) -> Images:
    """Return one generated image per label, in model range.

    Image i starts from noise i of the seed whatever the labels, so two calls that differ only in
    the labels show the same draws under two classes.

    Args:
        model: In eval mode.
        y: Class of each image.
        seed: Seed of the noise.
        num_steps: Sampler steps, each one network evaluation, or two with guidance.
        guidance_scale: 1 = none.
        method: `ddim` or `ddpm`.
        precision: Of network calls.
    """
    z_start = generation_noise(model, len(y), seed)
    z = sample(
        predictor(model, precision),
        model.schedule,
        z_start,
        y.to(z_start.device),
        null_label=model.null_label,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        method=method,
        generator=torch.Generator(z_start.device).manual_seed(seed),
    )
    return model.transform.decode(z)
