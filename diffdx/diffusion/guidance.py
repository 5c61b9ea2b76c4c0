"""Classifier-free guidance.

    v_guided = v_null + s (v_y - v_null)

s = `guidance_scale`; s = 1 is the plain conditional prediction. The paper's w (Eq. 5) is s - 1.
"""

import torch

from diffdx._tensors import ClassIds, Images, Times
from diffdx.diffusion.loss import VPredictor


def guided_v(
    predict_v: VPredictor,
    z_t: Images,
    logsnr: Times,
    y: ClassIds,
    *,
    null_label: int,
    guidance_scale: float,
) -> Images:
    """Return the guided v estimate; one network call if s = 1, else one of twice the batch.

    v is linear in x and eps at fixed z_t, so guiding v, eps or x is the same.
    """
    if guidance_scale == 1:
        return predict_v(z_t, logsnr, y)
    null = torch.full_like(y, null_label)
    both = predict_v(torch.cat([z_t, z_t]), torch.cat([logsnr, logsnr]), torch.cat([y, null]))
    v_y, v_null = both.chunk(2)
    return v_null + guidance_scale * (v_y - v_null)
