"""The paper's UNet: diffusers' UNet2DConditionModel, told the class by cross-attention.

Paper appendix B.3, spec section 2: the class is one token, a row of a trainable table, and only one
level (resolution 16 of 128 in the paper) and the middle of the network attend to it. The log-SNR is
added in every ResNet block. Attention over a single token gives that token's value whatever the
query, so the class adds one vector to all positions, and the queries and keys never learn.

The levels above the class's own are the same for every class of a trial: 17.4% of the work of
the paper's size.
"""

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from diffdx._tensors import Rows
from diffdx.backbones.padded import StagedUNet
from diffdx.config import ConditionalUNetConfig
from diffdx.diffusion.schedule import NoiseSchedule


class ConditionalUNetDenoiser(StagedUNet):
    """Convolutional v predictor with one class token."""

    def __init__(
        self,
        config: ConditionalUNetConfig,
        *,
        in_channels: int,
        side_px: int,
        num_classes: int,
        schedule: NoiseSchedule,
    ) -> None:
        """Build the network.

        Args:
            config: Widths, depth and the level that attends to the class.
            in_channels: Channels of the network's coordinates.
            side_px: Side of the network's coordinates.
            num_classes: K; the label table has K + 1 rows.
            schedule: Its bounds scale the log-SNR embedding.
        """
        levels = len(config.channels)
        super().__init__(num_classes=num_classes, multiple=2 ** (levels - 1), schedule=schedule)
        self._class_stage = config.class_level
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

    def _told(self, embedding: Tensor, y: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        return embedding, {"encoder_hidden_states": self.class_embedding(y)[:, None]}
