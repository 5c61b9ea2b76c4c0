"""Table 1 as it is printed: eleven methods, two sets of images, accuracy and F1 (paper section 4).

Accuracy in percent in the paper is a share here. The paper's code starts the seven discriminative
models from ImageNet weights, which the paper does not say (spec section 8); both rows of Stable
Diffusion start from its public weights.
"""

from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["chexpert", "isic"]
Family = Literal["CNN", "TF", "DM"]

DATASETS: tuple[DatasetName, ...] = ("chexpert", "isic")
METRICS = ("accuracy", "f1")
DIFFUSION_FAMILY: Family = "DM"


@dataclass(frozen=True)
class Method:
    """A row of Table 1.

    Attributes:
        name: As in `--only NAME/DATASET`.
        title: As in the table.
        family: Convolutional, transformer, diffusion.
        pretrained: Whether the published numbers started from public weights.
        published: Accuracy and F1 as shares, by dataset.
    """

    name: str
    title: str
    family: Family
    pretrained: bool
    published: dict[DatasetName, tuple[float, float]]

    def value(self, dataset: DatasetName, metric: str) -> float | None:
        """Return what the paper prints; None for a metric that it does not print."""
        if metric not in METRICS:
            return None
        return self.published[dataset][METRICS.index(metric)]


def _row(
    name: str,
    title: str,
    family: Family,
    chexpert: tuple[float, float],
    isic: tuple[float, float],
    *,
    pretrained: bool = True,
) -> Method:
    return Method(name, title, family, pretrained, {"chexpert": chexpert, "isic": isic})


METHODS: tuple[Method, ...] = (
    _row("resnet18", "ResNet-18", "CNN", (0.909, 0.910), (0.944, 0.943)),
    _row("resnet50", "ResNet-50", "CNN", (0.916, 0.914), (0.936, 0.935)),
    _row("efficientnet_b0", "EfficientNet-B0", "CNN", (0.905, 0.907), (0.931, 0.930)),
    _row("efficientnet_b4", "EfficientNet-B4", "CNN", (0.904, 0.904), (0.932, 0.930)),
    _row("vit_small", "ViT-S/16", "TF", (0.869, 0.869), (0.950, 0.949)),
    _row("vit_base", "ViT-B/16", "TF", (0.851, 0.857), (0.948, 0.948)),
    _row("swin_base", "Swin-B", "TF", (0.861, 0.863), (0.959, 0.958)),
    _row("dit", "DiT-B/4", "DM", (0.861, 0.860), (0.904, 0.901), pretrained=False),
    _row("unet", "UNet", "DM", (0.845, 0.854), (0.918, 0.919), pretrained=False),
    _row("sd-tuned", "Stable Diffusion, fine-tuned", "DM", (0.850, 0.839), (0.948, 0.946)),
    _row("sd-zero", "Stable Diffusion, zero-shot", "DM", (0.488, 0.656), (0.397, 0.521)),
)
BY_NAME = {method.name: method for method in METHODS}
