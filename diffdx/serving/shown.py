"""What is shown of a case: its votes by noise level, and its pictures."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from diffdx._typing import Errors, LogSNRs
from diffdx.classification.voting import Ties, trial_votes, vote_entropy
from diffdx.explain.explainer import Explanation
from diffdx.report.explanation_figures import DIFFERENCE_LIMIT, overlay, smoothed
from diffdx.serving.tasks import Json
from diffdx.transforms.pictures import grid_image

NOISE_LEVELS, TRIALS_PER_LEVEL = 8, 4
"""Into how many levels of equally many trials the votes are divided at most, and of how many."""

Picture = UInt8[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]


def votes_by_noise(
    errors: Errors, logsnr: LogSNRs, classes: Sequence[str], *, ties: Ties = "split"
) -> list[Json]:
    """Return vote shares and their entropy by noise level, noisy to clean.

    Args:
        errors: Of one image; NaN under every class of a trial that was not run.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        classes: Class names.
        ties: How a tied trial's vote is counted.

    Returns:
        For each level its middle `logsnr`, `trials`, `vote_share` and `entropy_bits`; levels have
        equally many trials, but for one.
    """
    run = np.flatnonzero(~np.isnan(errors[0]).all(axis=0))
    order = run[np.argsort(logsnr[0, run], kind="stable")]
    levels = []
    count = int(np.clip(len(order) // TRIALS_PER_LEVEL, 1, NOISE_LEVELS))
    for cell in np.array_split(order, count):
        share = trial_votes(errors[:, :, cell], ties=ties).mean(axis=2)
        levels.append(
            {
                "logsnr": float(np.median(logsnr[0, cell])),
                "trials": len(cell),
                "vote_share": dict(zip(classes, map(float, share[0]), strict=True)),
                "entropy_bits": float(vote_entropy(share)[0]),
            }
        )
    return levels


def explained_pictures(made: Explanation) -> dict[str, Picture]:
    """Return what an explanation shows: images as they are, and maps laid over them."""
    one = made.explained
    original, factual, changed = (
        picture(torch.from_numpy(x)) for x in (one.x, one.x_factual, one.x_cf)
    )
    return {
        "factual": factual,
        "counterfactual": changed,
        "difference": overlay(factual, one.difference.mean(axis=0), DIFFERENCE_LIMIT),
        "evidence": overlay(original, *smoothed(made.evidence)),
    }


def picture(x: Tensor) -> Picture:
    """Return an image in model range, (C, H, W), as it is shown."""
    shown: np.ndarray = grid_image(x[None], 1)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def png_files(pictures: Mapping[str, Picture]) -> dict[str, bytes]:
    """Return pictures as PNG files, without metadata."""
    files = {}
    for name, shown in pictures.items():
        stream = io.BytesIO()
        Image.fromarray(shown).save(stream, "PNG")
        files[name] = stream.getvalue()
    return files
