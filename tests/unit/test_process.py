"""The forward process: identities between x, eps and v."""

import pytest
import torch

from diffdx.diffusion.process import (
    alpha_sigma,
    diffuse,
    eps_from_v,
    v_from_eps,
    v_from_x,
    v_target,
    x_from_v,
)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 50, 3, 4, 4, generator=generator, dtype=torch.float64)
    logsnr = torch.linspace(-12, 12, 50, dtype=torch.float64)
    return x, eps, logsnr


def test_variance_is_preserved():
    alpha, sigma = alpha_sigma(torch.linspace(-15, 15, 301, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(301, dtype=torch.float64))


def test_ratio_is_the_snr():
    logsnr = torch.linspace(-15, 15, 31, dtype=torch.float64)
    alpha, sigma = alpha_sigma(logsnr)
    torch.testing.assert_close((alpha / sigma).square().log(), logsnr)


def test_round_trips(drawn):
    x, eps, logsnr = drawn
    z_t, v = diffuse(x, eps, logsnr), v_target(x, eps, logsnr)
    torch.testing.assert_close(x_from_v(z_t, v, logsnr), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(eps_from_v(z_t, v, logsnr), eps, atol=1e-12, rtol=0)
    # Dividing by alpha (sigma) magnifies rounding by at most exp(6) = 400 here.
    torch.testing.assert_close(v_from_eps(z_t, eps, logsnr), v, atol=1e-12 * 400, rtol=0)
    torch.testing.assert_close(v_from_x(z_t, x, logsnr), v, atol=1e-12 * 400, rtol=0)


def test_error_spaces_differ_by_alpha_and_sigma_squared(drawn):
    x, eps, logsnr = drawn
    z_t, v = diffuse(x, eps, logsnr), v_target(x, eps, logsnr)
    v_hat = v + torch.randn(v.shape, generator=torch.Generator().manual_seed(1)).double()

    def error(a, b):
        return (a - b).square().mean((1, 2, 3))

    alpha, sigma = alpha_sigma(logsnr)
    in_v = error(v_hat, v)
    torch.testing.assert_close(error(eps_from_v(z_t, v_hat, logsnr), eps), alpha**2 * in_v)
    torch.testing.assert_close(error(x_from_v(z_t, v_hat, logsnr), x), sigma**2 * in_v)
