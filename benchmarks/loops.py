"""The two loops that the engine is compared with, written plainly.

Both return the mean squared eps errors (B, K, N) of images under every class in every trial, with
times and noises drawn as the paper draws them: t ~ U(0, 1), from torch's generator.
"""

import torch
from torch import Tensor

from diffdx._typing import Errors
from diffdx.backbones.model import DiffusionModel
from diffdx.diffusion.process import diffuse, eps_from_v


def appendix_a(model: DiffusionModel, x: Tensor, num_trials: int) -> Errors:
    """Return the eps errors (B, K, N) of the paper's loop, as written in its appendix A."""
    z = model.transform.encode(x)
    errors = torch.full((len(x), len(model.classes), num_trials), torch.inf)
    for step in range(num_trials):
        logsnr = model.schedule.logsnr(torch.rand(1, device=x.device)).expand(len(x))
        eps = torch.randn_like(z)
        z_t = diffuse(z, eps, logsnr)
        for c in range(len(model.classes)):
            y = torch.full((len(x),), c, device=x.device)
            eps_hat = eps_from_v(z_t, model(z_t, logsnr, y), logsnr)
            errors[:, c, step] = (eps_hat - eps).square().mean(dim=(1, 2, 3)).cpu()
    return errors.numpy()


def one_by_one(model: DiffusionModel, x: Tensor, num_trials: int, rows: int) -> Errors:
    """Return the eps errors of one image after the other, each call with `rows` of its rows."""
    classes = len(model.classes)
    errors = []
    for z in model.transform.encode(x):
        parts = []
        for trials in torch.arange(num_trials).split(max(1, rows // classes)):
            logsnr = model.schedule.logsnr(torch.rand(len(trials), device=x.device))
            eps = torch.randn(len(trials), *z.shape, device=x.device)
            z_t = diffuse(z.expand_as(eps), eps, logsnr)
            z_t, eps, logsnr = (a.repeat_interleave(classes, 0) for a in (z_t, eps, logsnr))
            y = torch.arange(classes, device=x.device).repeat(len(trials))
            error = (eps_from_v(z_t, model(z_t, logsnr, y), logsnr) - eps).square()
            parts.append(error.mean(dim=(1, 2, 3)).view(-1, classes).T)
        errors.append(torch.cat(parts, 1).cpu())
    return torch.stack(errors).numpy()
