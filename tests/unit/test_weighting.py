"""Loss weights equal their formulas, and the two min-SNR forms are one loss."""

import pytest
import torch

from diffdx.diffusion.weighting import min_snr_weight, v_weight

LOGSNR = torch.linspace(-14, 14, 57, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_formulas(gamma):
    snr = LOGSNR.exp()
    capped = snr.clamp(max=gamma)
    torch.testing.assert_close(min_snr_weight(LOGSNR, gamma=gamma), capped / (snr + 1))
    torch.testing.assert_close(min_snr_weight(LOGSNR, gamma=gamma, space="eps"), capped / snr)


def test_eps_and_v_forms_agree():
    alpha_squared = torch.sigmoid(LOGSNR)
    in_v = min_snr_weight(LOGSNR, space="v")
    in_eps = min_snr_weight(LOGSNR, space="eps")
    torch.testing.assert_close(in_v, in_eps * alpha_squared)


def test_uniform_and_extremes():
    assert (v_weight(LOGSNR, "uniform") == 1).all()
    torch.testing.assert_close(v_weight(LOGSNR, "min_snr"), min_snr_weight(LOGSNR))
    extreme = min_snr_weight(torch.tensor([-200.0, 200.0]))
    assert torch.isfinite(extreme).all()


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match="gamma"):
        min_snr_weight(LOGSNR, gamma=0.0)
