"""How much each noise level counts in the training loss.

With snr = exp(logsnr) and gamma = 5, min-SNR (paper Eq. 2) weighs

    the v error by   min(snr, gamma) / (snr + 1)
    the eps error by min(snr, gamma) / snr

which is the same loss: |eps_hat - eps|^2 = alpha^2 |v_hat - v|^2, alpha^2 = snr / (snr + 1).

Others, as weights of the v error:

    uniform           1                                   every v error counts the same
    uniform_eps       alpha^2                             every eps error (DDPM's simple loss)
    inverse_min_snr   alpha^2 / (1 + min(snr, gamma))     the paper's release; not min-SNR
"""

from typing import Literal

import torch

from diffdx._tensors import Schedule

Weighting = Literal["min_snr", "inverse_min_snr", "uniform", "uniform_eps"]


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
    """Return the weight of the v error under the named weighting at these log-SNRs (nats)."""
    match weighting:
        case "min_snr":
            return min_snr_weight(logsnr, gamma=gamma)
        case "inverse_min_snr":
            return torch.sigmoid(logsnr) / (1 + logsnr.exp().clamp(max=gamma))
        case "uniform":
            return torch.ones_like(logsnr)
        case "uniform_eps":
            return torch.sigmoid(logsnr)
