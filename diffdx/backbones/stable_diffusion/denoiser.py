"""Stable Diffusion's UNet as a `Denoiser`: a class is a prompt, a log-SNR one of its timesteps.

The network predicts eps or v, as its checkpoint says; both are returned as v:

    v_hat = (eps_hat - sigma z_t) / alpha               (spec section 1)

Dividing by alpha only undoes a multiplication: the eps error that a classifier derives from the v
error by alpha^2 is the network's own.
"""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from diffdx._tensors import ClassIds, Images, Times
from diffdx.backbones.denoiser import Denoiser
from diffdx.backbones.stable_diffusion.networks import build
from diffdx.config import StableDiffusionConfig
from diffdx.diffusion.discrete import DiscreteSchedule
from diffdx.diffusion.process import v_from_eps
from diffdx.errors import ConfigError

LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""Layers of each attention that get an adapter."""


class StableDiffusionDenoiser(Denoiser):
    """Latent v predictor, told the class by the text of its prompts.

    Attributes:
        unet: diffusers' network.
        texts: (K + 1, tokens, width) embedded prompts of each class, the last the empty prompt.
    """

    texts: Tensor

    def __init__(
        self, config: StableDiffusionConfig, *, num_classes: int, schedule: DiscreteSchedule
    ) -> None:
        """Build the network with random weights and blank texts.

        Args:
            config: The network's own configuration, and what it predicts.
            num_classes: K.
            schedule: Turns log-SNR into the network's integer timesteps.

        Raises:
            ConfigError: if diffusers cannot build it, or an adapter is wanted and peft is missing.
        """
        super().__init__()
        self.num_classes, self.prediction = num_classes, config.prediction
        self._schedule = schedule
        self.unet = build(UNet2DConditionModel, config.unet)
        if config.lora_rank is not None:
            _add_adapter(self.unet, config.lora_rank)
        width = self.unet.config.cross_attention_dim
        self.register_buffer("texts", torch.zeros(num_classes + 1, config.num_tokens, width))

    def forward(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return v_hat in float32, whatever precision the network itself runs in."""
        out = self.predicted(z_t, logsnr, y)
        return out if self.prediction == "v" else v_from_eps(z_t, out, logsnr)

    def predicted(self, z_t: Images, logsnr: Times, y: ClassIds) -> Images:
        """Return the network's own output, eps_hat or v_hat, in float32."""
        out: Images = self.unet(
            z_t, self._schedule.timestep(logsnr), encoder_hidden_states=self.texts[y]
        ).sample
        return out.float()

    def load_base(self, state: dict[str, Tensor]) -> None:
        """Load weights of the plain network; an adapter stays as it is."""
        own = self.unet.state_dict()
        for name, value in own.items():
            if ".lora_" not in name:
                value.copy_(state[name.replace(".base_layer", "")])


def _add_adapter(unet: UNet2DConditionModel, rank: int) -> None:
    """Freeze the network and add low-rank adapters to its attentions, the identity at first."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError("a LoRA adapter needs peft: pip install 'diffdx[sd]'") from None
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))
