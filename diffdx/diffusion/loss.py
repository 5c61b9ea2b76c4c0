"""Training loss: the weighted denoising error, one number per image.

    loss[b] = w(logsnr_b) e_b,   e_b = mean_pixels (v_hat - v)^2,   v = alpha eps - sigma x

and, where it is asked for, a contrastive term, which asks for what the classification uses: that
the true class denoises the same z_t better than another class does.

Times are stratified over the batch, t_b = (pi(b) + u_b) / B with pi a random permutation: each is
uniform on [0, 1), and together they cover it, which lowers the variance of the batch loss.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import softplus

from diffdx._tensors import ClassIds, Images, PerImage, PerRow, RowImages, Rows, Times
from diffdx.diffusion.process import diffuse, v_target

VPredictor = Callable[[Images, Times, ClassIds], Images]
"""The `Denoiser` call: (z_t, logsnr, y) -> v_hat."""
RowPredictor = Callable[[Images, Times, Rows, Rows], RowImages]
"""`Denoiser.under_classes`: (z_t, logsnr, y, owner) -> v_hat, a row for each y."""


def stratified_times(batch_size: int, generator: torch.Generator) -> Times:
    """Return `batch_size` times in [0, 1), one in each of as many equal cells, shuffled."""
    cell = torch.randperm(batch_size, generator=generator)
    return (cell + torch.rand(batch_size, generator=generator)) / batch_size


def drop_labels(
    y: ClassIds, null_label: int, probability: float, generator: torch.Generator
) -> ClassIds:
    """Return y with each label replaced by the null label with this probability (paper: 0.1)."""
    dropped = torch.rand(len(y), generator=generator) < probability
    return torch.where(dropped.to(y.device), null_label, y)


def v_errors(predict_v: VPredictor, x: Images, y: ClassIds, logsnr: Times, eps: Images) -> PerImage:
    """Return mean_pixels (v_hat - v)^2 for each image, in float32 or better.

    Args:
        predict_v: The denoiser.
        x: Clean images in the network's coordinates.
        y: Labels the denoiser is told.
        logsnr: Noise level of each image in nats.
        eps: Standard normal noise shaped like x.
    """
    v_hat = predict_v(diffuse(x, eps, logsnr), logsnr, y)
    return (v_hat - v_target(x, eps, logsnr)).square().mean(dim=(1, 2, 3))


def errors_under(
    v_under: RowPredictor, x: Images, y: Rows, owner: Rows, logsnr: Times, eps: Images
) -> PerRow:
    """Return the errors of `v_errors` for class y[r] of image owner[r], one for each row r.

    Args:
        v_under: `Denoiser.under_classes`, which computes once what the rows of an image share.
        x: Clean images in the network's coordinates.
        y: Label of each row.
        owner: Position in x of each row.
        logsnr: Noise level of each image in nats.
        eps: Standard normal noise shaped like x.
    """
    v_hat = v_under(diffuse(x, eps, logsnr), logsnr, y, owner)
    return (v_hat - v_target(x, eps, logsnr)[owner]).square().mean(dim=(1, 2, 3))


def other_labels(y: ClassIds, num_classes: int, generator: torch.Generator) -> ClassIds:
    """Return for each label one of the other classes, each equally likely."""
    step = torch.randint(1, num_classes, (len(y),), generator=generator)
    return (y + step.to(y.device)) % num_classes


def contrastive_losses(right: PerImage, wrong: PerImage, scale: float) -> PerImage:
    """Return the cross-entropy of telling the true class from another by their errors.

    loss[b] = softplus(log(right_b / wrong_b) / scale)

    Args:
        right: Errors under the true class, above 0.
        wrong: Errors under another class, of the same images and noise.
        scale: Log ratio that counts as a clear difference.
    """
    return softplus((right.log() - wrong.log()) / scale)
