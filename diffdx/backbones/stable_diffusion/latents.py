"""The autoencoder of Stable Diffusion as the network's coordinates.

    encode: x -> f mean(VAE(x))              decode: z -> VAE's picture of z / f

f is the VAE's own scaling factor. The mean in place of a draw makes the latents, and with them the
denoising errors, a function of the image. The map is not orthonormal and not invertible: an error
is a mean over latents, and `decode(encode(x))` loses detail.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from diffdx._tensors import Encoded, Images
from diffdx.backbones.stable_diffusion.networks import build
from diffdx.transforms.coordinates import Transform


class LatentCoordinates(Transform):
    """Latents of a frozen autoencoder.

    Attributes:
        vae: diffusers' autoencoder; its weights travel inside the checkpoint.
        factor: Pixels per latent, along a side.
    """

    wavelet = "none"

    def __init__(self, config: dict[str, Any]) -> None:
        """Build the autoencoder of a diffusers configuration, with random weights.

        Raises:
            ConfigError: if it is none that diffusers can build.
        """
        super().__init__()
        self.vae = build(AutoencoderKL, config).requires_grad_(False).eval()
        self.channels = int(self.vae.config.latent_channels)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, x: Images) -> Encoded:
        """Return the scaled means of the latents of RGB images in [-1, 1], in float32."""
        with torch.no_grad():
            z: Encoded = self.vae.encode(x).latent_dist.mean * self.vae.config.scaling_factor
        return z.float()

    def decode(self, z: Encoded) -> Images:
        """Return the autoencoder's picture of latents, nearly in [-1, 1]."""
        with torch.no_grad():
            x: Images = self.vae.decode(z / self.vae.config.scaling_factor).sample
        return x.float()
