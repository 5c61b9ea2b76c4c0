"""What diffusers' networks have in common here: sides that divide, and log-SNR as a time.

`PaddedDenoiser` pads the image to sides that the network can halve or cut into patches, gives it
the log-SNR as a time of 0 to 1000, and cuts the answer again. `StagedUNet` runs a UNet block by
block, so that the blocks before the class enters run once for all classes of a noisy image.
"""

from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diffdx._tensors import ClassIds, Images, RowImages, Rows, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.diffusion.schedule import NoiseSchedule

_TIME_RANGE = 1000.0  # diffusers' sinusoidal embedding resolves times of 0 to about 1000


class PaddedDenoiser(Denoiser):
    """A network for images whose sides are multiples of a number."""

    def __init__(self, *, num_classes: int, multiple: int, schedule: NoiseSchedule) -> None:
        """Keep what every call needs.

        Args:
            num_classes: K.
            multiple: Of which the sides must be; smaller images are padded at the right and bottom.
            schedule: Its bounds scale the log-SNR embedding.
        """
        super().__init__()
        self.num_classes, self._multiple = num_classes, multiple
        self._logsnr_min = schedule.logsnr_min
        self._scale = _TIME_RANGE / (schedule.logsnr_max - schedule.logsnr_min)

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat in float32, whatever precision the network itself runs in."""
        return self._cut(z_t, logsnr, y, None)

    def under_classes(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        """Return v_hat of class y[r] for noisy image owner[r]; what classes share runs once."""
        return self._cut(z_t, logsnr, y, owner)

    def _cut(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows | None) -> RowImages:
        height, width = z_t.shape[2:]
        # A UNet halves 14 x 14 (a 28 px image) after padding it to 16 x 16.
        padded = F.pad(z_t, (0, -width % self._multiple, 0, -height % self._multiple))
        time = (logsnr - self._logsnr_min) * self._scale
        v_hat: RowImages = self._v_hat(padded, time, y, owner).float()
        return v_hat[:, :, :height, :width]

    @abstractmethod
    def _v_hat(self, padded: Images, time: Times, y: Rows, owner: Rows | None) -> RowImages:
        """Return v_hat of the padded images; no owner = a row for each image."""


class StagedUNet(PaddedDenoiser):
    """A UNet of diffusers, run block by block: down, middle, up.

    Attributes:
        unet: With the blocks of diffusers' UNets.
    """

    unet: Any
    _class_stage: int
    """Number of blocks before the first that is told the class."""
    _patch_px: int = 1
    """Side of the squares whose values are the channels of a position."""

    def _v_hat(self, padded: Images, time: Times, y: Rows, owner: Rows | None) -> RowImages:
        unet = self.unet
        embedding = unet.time_embedding(unet.time_proj(time))
        hidden = unet.conv_in(F.pixel_unshuffle(padded, self._patch_px))
        skips, told = [hidden], dict[str, Tensor]()
        down, up = list(unet.down_blocks), list(unet.up_blocks)
        for stage, block in enumerate([*down, unet.mid_block, *up]):
            if stage == self._class_stage:
                if owner is not None:
                    hidden, embedding = hidden[owner], embedding[owner]
                    skips = [skip[owner] for skip in skips]
                embedding, told = self._told(embedding, y)
            heard = told if getattr(block, "has_cross_attention", False) else {}
            if stage < len(down):
                hidden, block_skips = block(hidden, temb=embedding, **heard)
                skips += block_skips
            elif block is unet.mid_block:
                hidden = block(hidden, embedding, **heard)
            else:
                own = len(block.resnets)
                hidden = block(hidden, tuple(skips[-own:]), embedding, **heard)
                del skips[-own:]
        patches = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        v_hat: RowImages = F.pixel_shuffle(patches, self._patch_px)
        return v_hat

    @abstractmethod
    def _told(self, embedding: Tensor, y: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the embedding, and what attending blocks get, from where the class enters."""
