"""The baselines' networks by name: torchvision's ResNets and timm's others (paper 3.2).

The libraries are imported only when a network is built (extra `baselines`).
"""

from typing import Any

from torch import nn

from diffdx.baseline_config import RESNETS, BaselineModelConfig
from diffdx.errors import ConfigError

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of each colour, images being in [-1, 1]."""

_TIMM_NAMES = {
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b4": "efficientnet_b4",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "swin_base": "swin_base_patch4_window7_224",
}
_PATCH_PX = {"vit_small": 16, "vit_base": 16, "swin_base": 4}
_NOT_INSTALLED = "{} is not installed; run pip install 'diffdx[baselines]'"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build_network(
    config: BaselineModelConfig, num_classes: int, *, fetch_pretrained: bool = False
) -> nn.Module:
    """Return the network: images (B, 3, S, S) to logits (B, K).

    Args:
        config: Which; its `pretrained` matters only with `fetch_pretrained`.
        num_classes: K.
        fetch_pretrained: Take weights from the local cache, or fetch them.

    Raises:
        ConfigError: if a library is missing, or pretrained weights cannot be had.
    """
    pretrained = config.pretrained and fetch_pretrained
    build = _resnet if config.architecture in RESNETS else _timm
    if not pretrained:
        return build(config, num_classes, pretrained=False)
    try:
        return build(config, num_classes, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # the hubs' libraries raise errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"--pretrained: the weights of {config.architecture} are not in the local cache and "
            f"cannot be fetched ({reason}). Run once with network access, copy the cache folder "
            "(TORCH_HOME for a ResNet, HF_HOME for the others), or leave out --pretrained"
        ) from None


def pixel_statistics(config: BaselineModelConfig, network: nn.Module) -> Statistics:
    """Return what the network's input is scaled by: nothing, unless its weights expect otherwise.

    Pretrained weights were fitted to (pixels - mean) / std with pixels in [0, 1]; in [-1, 1] the
    same is (x - (2 mean - 1)) / (2 std).
    """
    if not config.pretrained:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    made_for: Any = getattr(network, "pretrained_cfg", None)
    mean, std = _IMAGENET if made_for is None else (made_for["mean"], made_for["std"])
    red, green, blue = (2 * value - 1 for value in mean)
    return (red, green, blue), (2 * std[0], 2 * std[1], 2 * std[2])


def _resnet(config: BaselineModelConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    try:
        from torchvision.models import get_model
    except ImportError:
        raise ConfigError(_NOT_INSTALLED.format("torchvision")) from None

    weights = "IMAGENET1K_V1" if pretrained else None
    network: Any = get_model(config.architecture, weights=weights)
    network.fc = nn.Linear(network.fc.in_features, num_classes)
    if config.stem == "small":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    built: nn.Module = network
    return built


def _timm(config: BaselineModelConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ConfigError(_NOT_INSTALLED.format("timm")) from None
    name = config.architecture
    size: dict[str, Any] = {}
    if name in _PATCH_PX:
        size["img_size"] = config.data.image_size
        size["patch_size"] = _PATCH_PX[name] // (4 if config.stem == "small" else 1)
        if config.data.image_size % size["patch_size"]:
            raise ConfigError(
                f"model.data.image_size {config.data.image_size}: {name} needs a multiple of its "
                f"patch of {size['patch_size']} px"
            )
    network: nn.Module = timm.create_model(
        _TIMM_NAMES[name], pretrained=pretrained, num_classes=num_classes, **size
    )
    return network
