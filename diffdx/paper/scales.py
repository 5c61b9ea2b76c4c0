"""How large a reproduction is: the paper's own recipe, or all of it in miniature.

    full     CheXpert and ISIC at 256 px, the paper's networks, 501 trials; steps as the authors'
             code has them where the paper says none; Stable Diffusion's public weights
    smoke    64 px images of two small public sets that stand for the paper's; the seven baselines
             as they are, small siblings of the diffusion models, a minute or two of training each

The published lists of images, if they lie in ROOT/paper-splits, decide who is tested on.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffdx.paper.published import DatasetName

ScaleName = Literal["smoke", "full"]
SPLITS_FOLDER = "paper-splits"
SIDE_PX = 64


@dataclass(frozen=True)
class Source:
    """Images that are, or stand for, one of the paper's sets.

    Attributes:
        folder: Below the root.
        layout: DATA as the verbs take it, `{}` being the folder.
        prompts: Prompt of each class, the positive one last.
        lists: Published lists of the set, by the beginning of their names; None has none.
        options: Of the verbs that train.
    """

    folder: str
    layout: str
    prompts: dict[str, str]
    lists: str | None = None
    options: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, str]:
        """The healthy class and the sick one."""
        healthy, sick = self.prompts
        return healthy, sick


@dataclass(frozen=True)
class Scale:
    """What all cells of a reproduction have in common.

    Attributes:
        name: Of the scale.
        sources: Images of each set.
        image_size_px: Side.
        trials: Of a diffusion classifier.
        limit: Test images; None takes all.
        steps: Of training, by method and set; a method without any has its verb's own length.
        presets: Of the diffusion models.
        titles: Of what stands in a method's place, by method.
        recipe: Of the diffusion models; None takes what the command was given.
        settings: Further options of `baseline`, `train` and `finetune`.
        base: Steps that the small pipeline of Stable Diffusion's place is trained for, first its
            autoencoder; None takes public weights.
    """

    name: ScaleName
    sources: dict[DatasetName, Source]
    image_size_px: int
    trials: int
    limit: int | None
    steps: dict[str, dict[DatasetName, int]]
    presets: dict[str, str]
    titles: dict[str, str] = field(default_factory=dict)
    recipe: str | None = None
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    base: tuple[int, int] | None = None


def _both(steps: int) -> dict[DatasetName, int]:
    return {"chexpert": steps, "isic": steps}


_SKIN = {"benign": "a benign skin lesion", "melanoma": "a malignant skin lesion"}
_FEW_CHECKS = ("--set=train.checkpoint_every=100000", "--num-workers=2", "--batch-size=32")

SMOKE = Scale(
    name="smoke",
    sources={
        "chexpert": Source(
            "chest-xray",
            "{}",
            {
                "NORMAL": "a frontal chest xray of a healthy patient",
                "PNEUMONIA": "a frontal chest xray of a sick patient with pneumonia",
            },
        ),
        "isic": Source("isic-melanoma", "isic2020:{}", _SKIN),
    },
    image_size_px=SIDE_PX,
    trials=31,
    limit=200,
    # Less than a minute on two cores each; one to two minutes for the diffusion models.
    steps={
        "resnet18": _both(150),
        "resnet50": _both(48),
        "efficientnet_b0": _both(64),
        "efficientnet_b4": _both(32),
        "vit_small": _both(75),
        "vit_base": _both(24),
        "swin_base": _both(24),
        "dit": _both(120),
        "unet": _both(250),
        "sd-tuned": _both(160),
    },
    presets={"dit": "small-dit", "unet": "small-unet"},
    titles={
        "dit": "small DiT",
        "unet": "small UNet",
        "sd-tuned": "small pipeline, fine-tuned",
        "sd-zero": "small pipeline, of the other set",
    },
    recipe="denoising",
    settings={
        # A minute at the paper's 1e-5 leaves a transformer where it was.
        "baseline": (
            *_FEW_CHECKS,
            "--set=train.learning_rate=0.0003",
            "--set=train.patience=null",
            "--set=train.validate_every=16",
            "--set=train.validation_images=128",
        ),
        "train": (
            *_FEW_CHECKS,
            "--set=train.warmup_steps=50",
            "--set=train.validate_every=40",
            "--set=train.validation_images=64",
        ),
        "finetune": (
            *_FEW_CHECKS,
            "--set=train.learning_rate=0.0003",
            "--set=train.warmup_steps=50",
            "--set=train.validate_every=80",
            "--set=train.validation_images=64",
        ),
    },
    base=(160, 160),
)

FULL = Scale(
    name="full",
    sources={
        "chexpert": Source(
            "chexpert",
            "chexpert:{}?uncertain=drop",
            {
                "No Finding": "a frontal chest xray of a healthy patient",
                "Pleural Effusion": "a frontal chest xray of a sick patient with pleural effusion",
            },
            lists="chexpert",
        ),
        # The lists divide patients between the roles; the audit's line says so in every result.
        "isic": Source("isic", "isic:{}", _SKIN, lists="isic", options=("--allow-leak",)),
    },
    image_size_px=256,
    trials=501,
    limit=None,
    steps={
        "dit": {"chexpert": 65_536, "isic": 32_768},
        "unet": {"chexpert": 89_600, "isic": 44_800},
        "sd-tuned": _both(15_000),
    },
    presets={"dit": "paper-dit", "unet": "paper-unet"},
)

SCALES: dict[ScaleName, Scale] = {"smoke": SMOKE, "full": FULL}
