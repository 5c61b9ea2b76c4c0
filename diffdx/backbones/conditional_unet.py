"""The paper's UNet: diffusers' UNet2DConditionModel, told the class by cross-attention.

Paper appendix B.3, spec section 2: the class is one token, a row of a trainable table, and only one
level (resolution 16 of 128 in the paper) and the middle of the network attend to it. The log-SNR is
added in every ResNet block. Attention over a single token gives that token's value whatever the
query, so the class adds one vector to all positions, and the queries and keys never learn.

The levels above the class's own are the same for every class of a trial: 17.4% of the work of
the paper's size.
"""

import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from diffdx._tensors import ClassIds, Images, RowImages, Rows, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.backbones.unet import EMBEDDING_RANGE
from diffdx.config import ConditionalUNetConfig
from diffdx.diffusion.schedule import ShiftedCosine


class ConditionalUNetDenoiser(Denoiser):
    """Convolutional v predictor with one class token."""

    def __init__(
        self,
        config: ConditionalUNetConfig,
        *,
        in_channels: int,
        side_px: int,
        num_classes: int,
        schedule: ShiftedCosine,
    ) -> None:
        """Build the network.

        Args:
            config: Widths, depth and the level that attends to the class.
            in_channels: Channels of the network's coordinates.
            side_px: Side of the network's coordinates.
            num_classes: K; the label table has K + 1 rows.
            schedule: Its bounds scale the log-SNR embedding.
        """
        super().__init__()
        levels = len(config.channels)
        self._multiple = 2 ** (levels - 1)
        self._class_level = config.class_level
        self.num_classes = num_classes
        self._logsnr_min = schedule.logsnr_min
        self._scale = EMBEDDING_RANGE / (schedule.logsnr_max - schedule.logsnr_min)
        kinds = ["CrossAttn" if level == config.class_level else "" for level in range(levels)]
        self.class_embedding = nn.Embedding(num_classes + 1, config.class_width)
        self.unet = UNet2DConditionModel(
            sample_size=side_px + -side_px % self._multiple,
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            cross_attention_dim=config.class_width,
            # diffusers reads this argument as the number of heads.
            attention_head_dim=config.attention_heads,
            norm_num_groups=config.norm_groups,
        )

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat in float32, whatever precision the network itself runs in."""
        return self._v_hat(z_t, logsnr, y, None)

    def under_classes(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows) -> RowImages:
        """Return v_hat of class y[r] for noisy image owner[r]; levels above the class run once."""
        return self._v_hat(z_t, logsnr, y, owner)

    def _v_hat(self, z_t: Images, logsnr: Times, y: Rows, owner: Rows | None) -> RowImages:
        height, width = z_t.shape[2:]
        # Every level halves the side.
        padded = F.pad(z_t, (0, -width % self._multiple, 0, -height % self._multiple))
        unet = self.unet
        time = unet.time_embedding(unet.time_proj((logsnr - self._logsnr_min) * self._scale))
        told = {"encoder_hidden_states": self.class_embedding(y)[:, None]}
        hidden = unet.conv_in(padded)
        skips = [hidden]
        for level, block in enumerate(unet.down_blocks):
            if level == self._class_level and owner is not None:
                hidden, time = hidden[owner], time[owner]
                skips = [skip[owner] for skip in skips]
            hidden, block_skips = block(hidden, temb=time, **_heard(block, told))
            skips += block_skips
        hidden = unet.mid_block(hidden, time, **told)
        for block in unet.up_blocks:
            own = len(block.resnets)
            hidden = block(hidden, tuple(skips[-own:]), time, **_heard(block, told))
            del skips[-own:]
        v_hat: RowImages = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))).float()
        return v_hat[:, :, :height, :width]


def _heard(block: nn.Module, told: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the class token for a block that attends to it."""
    return told if getattr(block, "has_cross_attention", False) else {}
