"""Named starting points of a run: a preset is a network and image size, a recipe how it is trained.

`--preset small-dit --recipe release` is the small transformer trained as the paper's code trains.

| option                       | `paper`         | `release`              | `fixed`         |
|------------------------------|-----------------|------------------------|-----------------|
| model.schedule (side d, s)   | +-15, shift s   | +-15 + 1.5 s, shift s  | +-10, shift 0   |
| model.data.band_scaling      | none            | halved                 | unit_variance   |
| model.edit.logsnr_start      | t = 0.5: s      | t = 0.5: s             | of `explain`    |
| model.edit.guidance_scale    | of `explain`    | UNets 5.5, DiT 4.5     | 1[u]            |
| train.weighting              | min_snr         | inverse_min_snr        | min_snr         |
| train.label_dropout          | 0.1             | UNets 0.15, DiT 0.235  | 0.1             |
| train.ema.class_embedding    | true            | false                  | true            |
| train.warmup_steps           | 250             | UNets 100, DiT 250     | 250             |
| train.learning_rate          | 1e-4            | 1e-4                   | 3e-4, cosine    |
| train.batch_size             | 128             | 128                    | 32              |
| train.augment                | none            | none                   | place, looks[u] |
| train.contrastive_weight     | 0               | 0                      | 0.1[u]          |
| train.ema                    | as the release  | from step 50, every 5  | every step      |

with s = 2 log(64 / d) (spec sections 1 and 2, paper appendix B); [u]: of the `unet` alone, others
as in `denoising`. `fixed` is what measurements favour, and the default. `denoising` is `fixed`
without the contrastive term, without changes of brightness, contrast and sharpness, and with the
guidance of `explain`. Two habits of the release are not offered, since they would make a
classification random: the averaged DiT still drops labels while it classifies, and of the 23.5% of
dropped labels a part is dropped by each block on its own. Here all blocks hear the same label.
"""

import math
from collections.abc import Callable
from typing import Any

Values = dict[str, Any]

_PAPER_IMAGES = {"image_size": 256, "channels": 3}

PRESETS: dict[str, Values] = {
    # name: overrides of RunConfig. Measured: see benchmarks/results/presets.json.
    "tiny": {
        "model": {
            "data": {"image_size": 32},
            "backbone": {"channels": (32, 64, 96)},
        },
    },
    "small": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (32, 64, 128, 192)},
        },
    },
    "small-late": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (32, 64, 128, 192), "class_levels": 4},
        },
    },
    "small-patch": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (64, 128, 192), "patch_px": 2, "class_levels": 2},
        },
    },
    "small-patch4": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"channels": (64, 128, 192), "patch_px": 4, "class_levels": 2},
        },
    },
    "small-unet": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {
                "name": "conditional_unet",
                "channels": (32, 64, 128, 192),
                "class_level": 2,
                "class_width": 128,
            },
        },
    },
    "small-dit": {
        "model": {
            "data": {"image_size": 64},
            "backbone": {"name": "dit", "layers": 6, "heads": 3, "head_dim": 64, "patch_px": 2},
        },
    },
    "base": {
        "model": {
            "data": {"image_size": 128},
            "backbone": {"channels": (64, 128, 192, 256), "layers_per_block": 2},
        },
    },
    "paper-unet": {
        "recipe": "paper",
        "model": {
            "data": _PAPER_IMAGES,
            "backbone": {
                "name": "conditional_unet",
                "channels": (128, 128, 256, 512, 1024),
                "layers_per_block": 2,
                "class_level": 3,
                "class_width": 512,
                "attention_heads": 8,
                "norm_groups": 32,
            },
        },
    },
    "paper-dit": {
        "recipe": "paper",
        "model": {
            "data": _PAPER_IMAGES,
            "backbone": {"name": "dit", "layers": 12, "heads": 12, "head_dim": 64, "patch_px": 4},
        },
    },
}


FINETUNING: dict[str, Values] = {
    # Paper 3.4 and appendix D; network, autoencoder and noise levels are those of the base.
    "stable-diffusion": {
        "model": {
            "data": {**_PAPER_IMAGES, "wavelet": "none", "band_scaling": "none"},
            "backbone": {"name": "stable_diffusion"},
        },
        "train": {
            "batch_size": 16,
            "learning_rate_decay": "none",
            "augment": {"rotate_degrees": 0.0, "zoom": 0.0, "shift": 0.0},
        },
    },
}


def preset_for_size(image_size: int | None) -> str:
    """Return the preset made for images of this side in pixels; that of 64 if it is not given."""
    if image_size is None:
        return "small-patch"
    return "tiny" if image_size <= 32 else "small-patch" if image_size <= 64 else "base"


def _fixed(side_px: int, backbone: str) -> Values:
    """Return what tells the classes apart while training, in images of other looks.

    For the UNet alone: a small transformer sees too few batches then, others were not measured.
    """
    if backbone != "unet":
        return {}
    looks = {"gamma": 1.7, "contrast": 1.4, "blur_sigma_px": (0.1, 0.8)}
    return {"train": {"contrastive_weight": 0.1, "augment": looks}}


def _denoising(side_px: int, backbone: str) -> Values:
    """Return nothing: the defaults of the configuration are this recipe."""
    return {}


def _paper(side_px: int, backbone: str) -> Values:
    """Return what the paper says, for a side of d pixels (its own: 256) and any backbone.

    Of fine-tuning it gives the length alone: 15,000 steps (appendix D).
    """
    if backbone == "stable_diffusion":
        return {}
    shift = 2 * math.log(64 / side_px)
    return {
        "model": {
            "data": {"wavelet": "haar", "band_scaling": "none"},
            "schedule": {
                "name": "shifted_cosine",
                "logsnr_min": -15.0,
                "logsnr_max": 15.0,
                "shift": shift,
            },
            # t = 0.5 under this schedule, to 0.01 nats.
            "edit": {"logsnr_start": round(shift, 2)},
        },
        "train": {
            "batch_size": 128,
            "learning_rate": 1e-4,
            "learning_rate_decay": "none",
            "augment": {"rotate_degrees": 0.0, "zoom": 0.0, "shift": 0.0},
            "ema": {"update_after_step": 50, "update_every": 5, "inv_gamma": 1.0, "power": 2 / 3},
        },
    }


def _release(side_px: int, backbone: str) -> Values:
    """Return what the paper's public code does, at any side and with any backbone.

    It fine-tunes for 25,000 steps, drops no caption, so that guidance has nothing to stand on, and
    mirrors every second image.
    """
    if backbone == "stable_diffusion":
        train = {"batch_size": 128, "label_dropout": 0.0, "weighting": "uniform_eps"}
        return {"train": train | {"augment": {"flip": True}}}
    values = _paper(side_px, backbone)
    is_dit = backbone == "dit"
    shift = values["model"]["schedule"]["shift"]
    # The bounds are moved by s / 2 before the curve is drawn, then with the curve by s.
    values["model"]["schedule"] |= {
        "logsnr_min": -15.0 + 1.5 * shift,
        "logsnr_max": 15.0 + 1.5 * shift,
    }
    values["model"]["data"]["band_scaling"] = "halved"
    # Its w is 4.5 and 3.5, s = 1 + w (paper Eq. 5).
    values["model"]["edit"]["guidance_scale"] = 4.5 if is_dit else 5.5
    values["train"] |= {
        "weighting": "inverse_min_snr",
        "label_dropout": 0.235 if is_dit else 0.15,
        "warmup_steps": 250 if is_dit else 100,
    }
    values["train"]["ema"]["class_embedding"] = False
    return values


RECIPES: dict[str, Callable[[int, str], Values]] = {
    "fixed": _fixed,
    "denoising": _denoising,
    "paper": _paper,
    "release": _release,
}
