"""How much each noise level counts in the training loss.

With snr = exp(logsnr) and gamma = 5, min-SNR (paper Eq. 2) weighs

    the v error by   min(snr, gamma) / (snr + 1)
    the eps error by min(snr, gamma) / snr

which is the same loss: |eps_hat - eps|^2 = alpha^2 |v_hat - v|^2, alpha^2 = snr / (snr + 1).
"""

from typing import Literal

import torch

from diffdx._tensors import Schedule

Weighting = Literal["min_snr", "uniform"]


def min_snr_weight(
    logsnr: Schedule, *, gamma: float = 5.0, space: Literal["v", "eps"] = "v"
) -> Schedule:
    """Return the min-SNR weight of an error in `space` at these log-SNRs (nats), in (0, gamma].

    Raises:
        ValueError: if gamma is not positive, where every weight would be zero or negative.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    # log min(snr, gamma) - log(snr + 1 or snr): no overflow at large log-SNR.
    log_capped = logsnr.clamp(max=float(torch.tensor(gamma).log()))
    log_norm = torch.nn.functional.softplus(logsnr) if space == "v" else logsnr
    return torch.exp(log_capped - log_norm)


def v_weight(logsnr: Schedule, weighting: Weighting, *, gamma: float = 5.0) -> Schedule:
    """Return the weight of the v error under the named weighting; `uniform` is 1 everywhere."""
    if weighting == "uniform":
        return torch.ones_like(logsnr)
    return min_snr_weight(logsnr, gamma=gamma)
