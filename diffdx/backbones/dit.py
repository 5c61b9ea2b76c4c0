"""The diffusion transformer: diffusers' DiTTransformer2DModel with one label dropout, ours.

Paper appendix B.4 (DiT-B/4), spec section 2: image patches are tokens, and the sum of class and
log-SNR embeddings gives every block a scale, a shift and a gate (adaLN-Zero). Differences from the
class as diffusers builds it:

- each block embeds the label and would drop it by a coin of its own; here the label is dropped
  once, by whoever trains, and every block hears the same one;
- label tables have K + 1 rows, the last for the null label, in place of 1,001;
- gates, scales and shifts start at zero, so that an untrained block is the identity and an
  untrained network returns 0 (Peebles and Xie, "Scalable diffusion models with transformers").

The class enters the first block, so classes share nothing but the embedding of the patches.
"""

from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import nn

from diffdx._tensors import Images, RowImages, Rows, Times
from diffdx.backbones.padded import PaddedDenoiser
from diffdx.config import DiTConfig
from diffdx.diffusion.schedule import NoiseSchedule


class DiTDenoiser(PaddedDenoiser):
    """Transformer v predictor."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        in_channels: int,
        side_px: int,
        num_classes: int,
        schedule: NoiseSchedule,
    ) -> None:
        """Build the network.

        Args:
            config: Depth, heads and patch side.
            in_channels: Channels of the network's coordinates, and of the prediction.
            side_px: Side of the network's coordinates.
            num_classes: K; each block's label table has K + 1 rows.
            schedule: Its bounds scale the log-SNR embedding.
        """
        super().__init__(num_classes=num_classes, multiple=config.patch_px, schedule=schedule)
        self.dit = DiTTransformer2DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            in_channels=in_channels,
            out_channels=in_channels,
            num_layers=config.layers,
            sample_size=side_px + -side_px % config.patch_px,
            patch_size=config.patch_px,
            num_embeds_ada_norm=num_classes,
        )
        modulations: list[nn.Linear] = [self.dit.proj_out_1, self.dit.proj_out_2]
        for block in self.dit.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0
            modulations.append(block.norm1.linear)
        for layer in modulations:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _v_hat(self, padded: Images, time: Times, y: Rows, owner: Rows | None) -> RowImages:
        if owner is not None:
            padded, time = padded[owner], time[owner]
        v_hat: RowImages = self.dit(padded, time, class_labels=y).sample
        return v_hat
