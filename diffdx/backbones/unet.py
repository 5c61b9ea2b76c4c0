"""UNet denoiser: diffusers' UNet2DModel, told the class and the log-SNR by adaptive group norm.

Class and log-SNR embeddings are added and give every ResNet block a scale and a shift. With one
class token, cross-attention is only an additive bias, so scale and shift are at least as strong.
The self-attention sits at the lowest resolution only.

With `class_levels` the class enters late: only that many up levels, counted from the output, are
told it. All before is the same for every class of a trial, and a classifier computes it once.
"""

from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from diffdx._tensors import Rows
from diffdx.backbones.padded import StagedUNet
from diffdx.config import UNetConfig
from diffdx.diffusion.schedule import NoiseSchedule


class UNetDenoiser(StagedUNet):
    """Convolutional v predictor for 28 to 128 px images."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        in_channels: int,
        side_px: int,
        num_classes: int,
        schedule: NoiseSchedule,
    ) -> None:
        """Build the network.

        Args:
            config: Widths, depth and attention.
            in_channels: Channels of the network's coordinates.
            side_px: Side of the network's coordinates.
            num_classes: K; the label table has K + 1 rows.
            schedule: Its bounds scale the log-SNR embedding.
        """
        levels = len(config.channels)
        plain = levels - 1
        patch = config.patch_px
        super().__init__(num_classes=num_classes, multiple=patch * 2**plain, schedule=schedule)
        self._patch_px = patch
        late = config.class_levels
        # Before the last `late` of `levels` down blocks, the middle and `levels` up blocks.
        self._class_stage = 0 if late is None else 2 * levels + 1 - late
        last = ("Attn" if config.attention else "") + "{}Block2D"
        self.unet = UNet2DModel(
            sample_size=(side_px + -side_px % self._multiple) // patch,
            in_channels=in_channels * patch**2,
            out_channels=in_channels * patch**2,
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

    def _told(self, embedding: Tensor, y: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        return embedding + self.unet.class_embedding(y), {}
