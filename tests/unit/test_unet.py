"""The UNet denoiser: hears the noise level and the label, and accepts any side."""

import pytest
import torch
import torch.nn.functional as F

from diffdx.backbones.unet import UNetDenoiser
from diffdx.config import UNetConfig
from diffdx.diffusion.schedule import ShiftedCosine

NUM_CLASSES = 3


def network(side=8, channels=(8, 16), *, in_channels=2, attention=True, **options):
    torch.manual_seed(0)
    config = UNetConfig(
        channels=channels, attention=attention, attention_head_dim=8, norm_groups=4, **options
    )
    denoiser = UNetDenoiser(
        config,
        in_channels=in_channels,
        side_px=side,
        num_classes=NUM_CLASSES,
        schedule=ShiftedCosine(),
    )
    return denoiser.eval()


@pytest.fixture(scope="module")
def denoiser():
    return network()


def noisy(count, side=8, channels=2):
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0)).expand(
        count, -1, -1, -1
    )


def test_every_log_snr_gives_another_output(denoiser):
    """Over the whole range: a clamped or rounded embedding would repeat itself at the ends."""
    logsnr = torch.linspace(-10, 10, 41)
    with torch.no_grad():
        v = denoiser(noisy(41), logsnr, torch.zeros(41, dtype=torch.int64)).flatten(1)
    distance = torch.cdist(v, v)
    distance.fill_diagonal_(torch.inf)
    spread = v.std(dim=0).norm()
    assert distance.min() > 1e-3 * spread
    assert spread > 0


def test_every_label_and_the_null_label_give_another_output(denoiser):
    y = torch.arange(NUM_CLASSES + 1)
    with torch.no_grad():
        v = denoiser(noisy(len(y)), torch.zeros(len(y)), y).flatten(1)
    distance = torch.cdist(v, v)
    distance.fill_diagonal_(torch.inf)
    assert distance.min() > 1e-4


def test_the_null_label_has_a_row_of_its_own_that_learns():
    denoiser = network(channels=(8,), attention=False)
    y = torch.full((2,), NUM_CLASSES)
    denoiser(noisy(2), torch.zeros(2), y).square().sum().backward()
    gradient = denoiser.unet.class_embedding.weight.grad
    assert gradient.shape[0] == NUM_CLASSES + 1
    assert gradient[NUM_CLASSES].abs().sum() > 0
    assert gradient[:NUM_CLASSES].abs().sum() == 0


def test_an_unknown_label_is_refused(denoiser):
    with pytest.raises(IndexError):
        denoiser(noisy(1), torch.zeros(1), torch.tensor([NUM_CLASSES + 1]))


def test_a_side_that_does_not_divide_is_padded_with_zeros_and_cut():
    """14 x 14 (a 28 px image) on three levels equals the padded 16 x 16 image, cut."""
    denoiser = network(side=14, channels=(8, 8, 8))
    z, logsnr, y = noisy(2, side=14), torch.tensor([-3.0, 3.0]), torch.tensor([0, NUM_CLASSES])
    with torch.no_grad():
        v = denoiser(z, logsnr, y)
        whole = denoiser(F.pad(z, (0, 2, 0, 2)), logsnr, y)
    assert v.shape == z.shape
    assert torch.isfinite(v).all()
    torch.testing.assert_close(v, whole[..., :14, :14], atol=0, rtol=0)


def test_a_side_that_divides_is_not_padded():
    denoiser = network(side=8, channels=(8, 8))
    with torch.no_grad():
        args = (noisy(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        time = (args[1] + 10) * 50
        direct = denoiser.unet(args[0], time, class_labels=args[2]).sample
        torch.testing.assert_close(denoiser(*args), direct, atol=0, rtol=0)


@torch.no_grad()
def test_a_network_of_patches_is_one_whose_channels_are_the_pixels_of_a_patch():
    """6 x 6 is padded to 8 x 8: patches of 2 px on two levels."""
    patches = network(side=6, patch_px=2)
    pixels = network(side=4, in_channels=8)
    pixels.load_state_dict(patches.state_dict())
    z, logsnr, y = noisy(2, side=6), torch.tensor([-3.0, 3.0]), torch.tensor([0, NUM_CLASSES])
    padded = F.pad(z, (0, 2, 0, 2))
    v = pixels(F.pixel_unshuffle(padded, 2), logsnr, y)
    torch.testing.assert_close(patches(z, logsnr, y), F.pixel_shuffle(v, 2)[..., :6, :6])


@pytest.mark.parametrize("patch_px", [1, 2])
@pytest.mark.parametrize("class_levels", [None, 1, 2])
def test_classes_asked_together_are_as_asked_alone(class_levels, patch_px):
    """So are the gradients, of the contrastive term: shared blocks hear from every class."""
    denoiser = network(patch_px=patch_px, class_levels=class_levels)
    z_t = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    logsnr, owner = torch.tensor([-4.0, 0.0, 4.0]), torch.tensor([0, 0, 1, 2, 2, 2])
    y = torch.tensor([0, 2, 1, 0, 1, NUM_CLASSES])

    def output_and_gradients(v):
        denoiser.zero_grad()
        (v**3).sum().backward()
        return v, [weight.grad.clone() for weight in denoiser.parameters()]

    together = output_and_gradients(denoiser.under_classes(z_t, logsnr, y, owner))
    alone = output_and_gradients(denoiser(z_t[owner], logsnr[owner], y))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_images_of_a_batch_do_not_mix(denoiser):
    z = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    logsnr, y = torch.tensor([-4.0, 0.0, 4.0]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        together = denoiser(z, logsnr, y)
        alone = torch.cat([denoiser(z[i, None], logsnr[i, None], y[i, None]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_half_precision_returns_float32_close_to_the_full_one(denoiser):
    args = (noisy(2), torch.tensor([-5.0, 5.0]), torch.tensor([0, 1]))
    with torch.no_grad():
        full = denoiser(*args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = denoiser(*args)
    assert half.dtype == torch.float32
    # bf16 keeps 8 bits; some dozen layers of it stay within a few per cent of the output's size.
    assert (half - full).abs().max() < 0.1 * full.abs().max()
    assert (half - full).abs().max() > 0
