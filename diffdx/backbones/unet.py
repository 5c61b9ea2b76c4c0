"""UNet denoiser: diffusers' UNet2DModel, told the class and the log-SNR by adaptive group norm.

Class and log-SNR embeddings are added and give every ResNet block a scale and a shift. With one
class token, cross-attention is only an additive bias, so scale and shift are at least as strong.
The self-attention sits at the lowest resolution only.

With `class_levels` the class enters late: only that many up levels, counted from the output, are
told it. All before is the same for every class of a trial, and a classifier computes it once.
"""

import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from diffdx._tensors import ClassIds, Images, RowImages, Rows, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.config import UNetConfig
from diffdx.diffusion.schedule import ShiftedCosine

EMBEDDING_RANGE = 1000.0
"""diffusers' sinusoidal embedding resolves times of 0 to about 1000."""


class UNetDenoiser(Denoiser):
    """Convolutional v predictor for 28 to 128 px images."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        in_channels: int,
        side_px: int,
        num_classes: int,
        schedule: ShiftedCosine,
    ) -> None:
        """Build the network.

        Args:
            config: Widths, depth and attention.
            in_channels: Channels of the network's coordinates.
            side_px: Side of the network's coordinates.
            num_classes: K; the label table has K + 1 rows.
            schedule: Its bounds scale the log-SNR embedding.
        """
        super().__init__()
        levels = len(config.channels)
        self._multiple = 2 ** (levels - 1)
        self._class_levels = config.class_levels
        self.num_classes = num_classes
        self._logsnr_min = schedule.logsnr_min
        self._scale = EMBEDDING_RANGE / (schedule.logsnr_max - schedule.logsnr_min)
        plain = levels - 1
        last = ("Attn" if config.attention else "") + "{}Block2D"
        self.unet = UNet2DModel(
            sample_size=side_px + -side_px % self._multiple,
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            down_block_types=("DownBlock2D",) * plain + (last.format("Down"),),
            up_block_types=(last.format("Up"),) + ("UpBlock2D",) * plain,
            add_attention=config.attention,
            attention_head_dim=config.attention_head_dim,
            norm_num_groups=config.norm_groups,
            num_class_embeds=num_classes + 1,
            resnet_time_scale_shift="scale_shift",
            dropout=config.dropout,
        )

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat in float32, whatever precision the network itself runs in."""
        return self._v_hat(z_t, logsnr, y, None)

    def under_classes(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        """Return v_hat of class y[r] for noisy image owner[r]; layers before the class run once."""
        return self._v_hat(z_t, logsnr, y, owner)

    def _v_hat(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows | None) -> RowImages:
        height, width = z_t.shape[2:]
        # Every level halves the side: 14 x 14 (a 28 px image) is padded to 16 x 16 and cut again.
        padded = F.pad(z_t, (0, -width % self._multiple, 0, -height % self._multiple))
        unet = self.unet
        time = unet.time_embedding(unet.time_proj((logsnr - self._logsnr_min) * self._scale))
        told = unet.class_embedding(y) + (time if owner is None else time[owner])

        def per_row(part: Tensor) -> Tensor:
            return part if owner is None else part[owner]

        hidden = unet.conv_in(padded)
        if self._class_levels is None:
            hidden, time = per_row(hidden), told
        skips = [hidden]
        for block in unet.down_blocks:
            hidden, block_skips = block(hidden, temb=time)
            skips += block_skips
        hidden = unet.mid_block(hidden, time)
        for level, block in zip(range(len(unet.up_blocks), 0, -1), unet.up_blocks, strict=True):
            if level == self._class_levels:
                hidden, skips, time = per_row(hidden), [per_row(skip) for skip in skips], told
            own = len(block.resnets)
            hidden = block(hidden, tuple(skips[-own:]), time)
            del skips[-own:]
        v_hat: RowImages = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))).float()
        return v_hat[:, :, :height, :width]
