"""Guidance between two classes, the same way up into noise as down again.

    v = v_other + s (v_y - v_other)

Guided against no class, as in classifier-free guidance, an image is also pushed toward the most
typical one of its class; guided against the class that it is compared with, it is moved along what
tells the two apart and nothing else. Call the field above F(y, other). An edit from A to B

    z_start = F(A, B) run up from x       x_factual = F(A, B) run down       x_cf = F(B, A) run down

is a pair of flows that are each other's inverse, but for the steps: x_factual is x, and the edit
from B to A leads x_cf back to x, whatever s is. With A = B the field is v_A: nothing is edited.
"""

import torch

from diffdx._tensors import ClassIds, Images, Times
from diffdx.diffusion.loss import VPredictor


def contrasted(predict_v: VPredictor, y_other: ClassIds, guidance_scale: float) -> VPredictor:
    """Return the denoiser call whose estimate for y points away from y_other.

    Each call is one of twice the batch.

    Args:
        predict_v: The denoiser.
        y_other: For each image, the class to point away from.
        guidance_scale: s; 1 is the plain estimate for y, larger separates the classes more.
    """

    def predict_contrast(z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        both = predict_v(
            torch.cat([z_t, z_t]), torch.cat([logsnr, logsnr]), torch.cat([y, y_other])
        )
        v_y, v_other = both.chunk(2)
        return v_other + guidance_scale * (v_y - v_other)

    return predict_contrast
