"""Is a checkpoint's prediction what its configuration says? Asked once, before it is used.

A picture is noised at three middle levels, and the network's raw output compared with each thing
that it might be, in units of that thing's size:

    r_q = mean (out - q)^2 / mean q^2          q = eps, v = alpha eps - sigma x, x

A network that knows nothing has r = 1. A checkpoint is refused if its output is clearly something
else than declared (some other r below 1/2, and below half of the declared one): every denoising
error would be wrong, and nothing else would show it. Then the conversion to v is undone and must
give the output back.
"""

import torch

from diffdx._tensors import Encoded, Images, Times
from diffdx.backbones.stable_diffusion.denoiser import StableDiffusionDenoiser
from diffdx.diffusion.process import diffuse, eps_from_v, v_target
from diffdx.errors import CheckpointError

LEVELS = (-1.0, 0.0, 1.0)
"""log-SNRs in nats at which eps, v and x differ most."""
CLEAR = 0.5


def probe_picture(side_px: int) -> Images:
    """Return a soft disc on a gradient, (1, 3, S, S) in [-1, 1], which any model can denoise."""
    axis = torch.linspace(-1, 1, side_px)
    disc = torch.sigmoid(10 * (0.5 - (axis[:, None].square() + axis.square()).sqrt()))
    return (1.2 * disc + 0.3 * axis - 0.6).clamp(-1, 1).expand(1, 3, -1, -1).contiguous()


@torch.no_grad()
def check_prediction(denoiser: StableDiffusionDenoiser, x: Encoded) -> list[str]:
    """Check what a network predicts on one picture; return warnings.

    Args:
        denoiser: With its weights, in eval mode.
        x: One picture (1, C, h, w) in the network's coordinates.

    Raises:
        CheckpointError: if it clearly predicts something else than it declares.
    """
    logsnr: Times = torch.tensor(LEVELS, device=x.device)
    x = x.expand(len(LEVELS), -1, -1, -1)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    z_t = diffuse(x, eps, logsnr)
    null = torch.full((len(LEVELS),), denoiser.num_classes, device=x.device)
    out = denoiser.predicted(z_t, logsnr, null)
    candidates = {"eps": eps, "v": v_target(x, eps, logsnr), "x": x}
    ratio = {
        name: float((out - q).square().mean() / q.square().mean()) for name, q in candidates.items()
    }
    declared, found = denoiser.prediction, min(ratio, key=lambda name: ratio[name])
    if ratio[found] < min(CLEAR, CLEAR * ratio[declared]):
        raise CheckpointError(
            f"the checkpoint says that it predicts {declared}, but its output is {found} "
            f"(relative error {ratio[found]:.2f} against {ratio[declared]:.2f}); correct "
            "prediction_type in its scheduler_config.json"
        )
    v_hat = denoiser(z_t, logsnr, null)
    back = v_hat if declared == "v" else eps_from_v(z_t, v_hat, logsnr)
    if not torch.allclose(back, out, rtol=1e-3, atol=1e-3 * float(out.abs().max())):
        raise CheckpointError("the checkpoint's prediction does not survive its conversion to v")
    if ratio[declared] >= 1:
        return [
            f"on a test picture the base model predicts {declared} no better than nothing "
            f"(relative error {ratio[declared]:.2f}): it looks untrained"
        ]
    return []
