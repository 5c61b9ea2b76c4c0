"""The one call that loss, sampling and classification share.

    v_hat = denoiser(z_t, logsnr, y)

z_t is (B, C, H, W) in the network's own coordinates, logsnr (B,) in nats, y (B,) a class index or
the null label `num_classes`, v_hat the estimate of v = alpha eps - sigma x, shaped like z_t.
A backbone that predicts eps or x, or that counts time in another way, converts inside.

A classifier asks for several classes of one z_t. Layers that come before the class enters the
network give the same for all of them; `under_classes` computes these once.
"""

from abc import ABC, abstractmethod

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from diffdx._tensors import ClassIds, Images, RowImages, Rows, Times


class Denoiser(nn.Module, ABC):
    """A class-conditional network that estimates v.

    Attributes:
        num_classes: K; labels run from 0 to K - 1, and K is the null label.
    """

    num_classes: int

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass instead of keeping them, from now on."""
        for network in self.children():
            if isinstance(network, ModelMixin):
                network.enable_gradient_checkpointing()

    @abstractmethod
    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat, the estimate of v = alpha eps - sigma x, in float32 or better."""

    def under_classes(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        """Return v_hat of class y[r] for noisy image owner[r], a row for each r.

        Equal to `self(z_t[owner], logsnr[owner], y)`, up to rounding where layers are shared.

        Args:
            z_t: Noisy images, each under any number of classes.
            logsnr: In nats, one for each noisy image.
            y: Class of each row.
            owner: Position in `z_t` of each row.
        """
        v_hat: RowImages = self(z_t[owner], logsnr[owner], y)
        return v_hat
