"""Prevalence: a probability holds for images as frequent in each class as those it was fitted to.

Where classes are met more or less often but look the same (label shift), Bayes' rule moves it:

    p'(k | x)  proportional to  p(k | x) deployed_k / prior_k

The deployed shares are given, or estimated from the unlabelled images themselves by expectation
maximisation (Saerens, Latinne and Decaestecker 2002): the mean of p' over the images becomes the
next estimate of the deployed shares until nothing changes. Labels of the deployed images are never
used. Neither helps against images that look different, as those of another scanner do: what may
help there is a calibration on altered copies (`diffdx.data.alterations`).
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from diffdx.errors import ConfigError
from diffdx.uncertainty.calibrators import Probabilities

Shares = Float[np.ndarray, "K"]
"""Fraction of images of each class; sums to 1."""

EM_MIN_IMAGES = 50
"""Fewer images say too little about the classes' shares."""
_MAX_ROUNDS = 10_000
_CONVERGED = 1e-9
# Keeps a class that no image seems to be of from becoming impossible.
_LEAST_SHARE = 1e-4


def correct_prevalence(prob: Probabilities, prior: Shares, deployed: Shares) -> Probabilities:
    """Return the probabilities at other class shares (Bayes' rule, above).

    Args:
        prob: Probabilities at the shares `prior`.
        prior: Class shares of the calibration images, all > 0.
        deployed: Class shares where the probabilities are used.
    """
    moved = prob * (deployed / prior)
    return np.asarray(moved / moved.sum(axis=1, keepdims=True))


def estimate_prevalence(prob: Probabilities, prior: Shares) -> Shares:
    """Return the class shares under which unlabelled images are likeliest.

    Args:
        prob: Probabilities of the images at the shares `prior`.
        prior: Class shares of the calibration images, all > 0.

    Raises:
        ConfigError: if there are too few images to estimate from.
    """
    if len(prob) < EM_MIN_IMAGES:
        raise ConfigError(
            f"--prevalence em needs at least {EM_MIN_IMAGES} images, there are {len(prob)}; "
            "give the prevalence as a number"
        )
    shares = prior
    for _ in range(_MAX_ROUNDS):
        found = np.maximum(correct_prevalence(prob, prior, shares).mean(axis=0), _LEAST_SHARE)
        found = found / found.sum()
        change = np.abs(found - shares).max()
        shares = found
        if change < _CONVERGED:
            break
    return shares


def parse_prevalence(
    text: str, classes: list[str], positive: str | None
) -> dict[str, float] | Literal["em"]:
    """Return the deployed class shares that `--prevalence` names, or how to estimate them.

    Args:
        text: `em`; the positive class's share in (0, 1); or shares of all classes as in
            `NORMAL=0.7,PNEUMONIA=0.3`.
        classes: The model's classes.
        positive: The class that a single number means.

    Raises:
        ConfigError: if that cannot be read as shares of these classes: one that is 0 or 1 would
            make a class certain before the image was seen.
    """
    if text == "em":
        return "em"
    names = ", ".join(f"{name}=SHARE" for name in classes)
    if "=" in text:
        pairs = [part.rpartition("=") for part in text.split(",")]
        found = {name.strip(): _share(share, text) for name, _, share in pairs}
        if sorted(found) != sorted(classes) or not math.isclose(sum(found.values()), 1.0):
            raise ConfigError(f"--prevalence {text}: give each class once ({names}), with sum 1")
        return {name: found[name] for name in classes}
    share = _share(text, text)
    if positive is None or len(classes) != 2:
        raise ConfigError(
            f"--prevalence {text}: one number needs two classes of which one is positive; "
            f"use {names}"
        )
    return {name: share if name == positive else 1 - share for name in classes}


def _share(number: str, text: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ConfigError(f"--prevalence {text}: use em, or shares above 0 and below 1")
    return share
