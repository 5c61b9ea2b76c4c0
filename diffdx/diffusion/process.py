"""Forward process and the conversions between x, eps and v.

    z_t     = alpha x + sigma eps                     (paper Eq. 1)
    alpha^2 = sigmoid(logsnr),  sigma^2 = sigmoid(-logsnr),  alpha^2 + sigma^2 = 1
    v       = alpha eps - sigma x

(z_t, v) is a rotation of (x, eps), so

    x   = alpha z_t - sigma v            eps = sigma z_t + alpha v

and an error in v has the same sign in every space:

    |eps_hat - eps|^2 = alpha^2 |v_hat - v|^2         |x_hat - x|^2 = sigma^2 |v_hat - v|^2.

Images are (B, C, H, W), log-SNRs (B,) in nats. Everything is computed in the dtype of its
arguments, which callers keep at float32 or better.
"""

import torch

from diffdx._tensors import Images, Schedule, Times


def alpha_sigma(logsnr: Schedule) -> tuple[Schedule, Schedule]:
    """Return (alpha, sigma) = (sqrt sigmoid(logsnr), sqrt sigmoid(-logsnr)), shaped like logsnr."""
    # Two sigmoids, not sqrt(1 - alpha^2): at logsnr = 15 the difference has no digit left.
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def _image_alpha_sigma(logsnr: Times) -> tuple[Images, Images]:
    alpha, sigma = alpha_sigma(logsnr)
    return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)


def diffuse(x: Images, eps: Images, logsnr: Times) -> Images:
    """Return z_t = alpha x + sigma eps (paper Eq. 1)."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return alpha * x + sigma * eps


def v_target(x: Images, eps: Images, logsnr: Times) -> Images:
    """Return v = alpha eps - sigma x."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return alpha * eps - sigma * x


def x_from_v(z_t: Images, v: Images, logsnr: Times) -> Images:
    """Return x = alpha z_t - sigma v."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return alpha * z_t - sigma * v


def eps_from_v(z_t: Images, v: Images, logsnr: Times) -> Images:
    """Return eps = sigma z_t + alpha v."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return sigma * z_t + alpha * v


def v_from_eps(z_t: Images, eps: Images, logsnr: Times) -> Images:
    """Return v = (eps - sigma z_t) / alpha; ill-conditioned as alpha goes to 0."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return (eps - sigma * z_t) / alpha


def v_from_x(z_t: Images, x: Images, logsnr: Times) -> Images:
    """Return v = (alpha z_t - x) / sigma; ill-conditioned as sigma goes to 0."""
    alpha, sigma = _image_alpha_sigma(logsnr)
    return (alpha * z_t - x) / sigma
