"""Evidence: from the maps of the classes' errors to what speaks for one class against another.

    evidence(p) = map[against, p] - map[for, p]        (spec section 6)

Positive where the image is better denoised as the class it speaks for. Its sum over the pixels and
the parts is the margin of the rule that weighed the maps. The vote has no such sum: its sign may be
another, and then the map shows what the mean sees and not what the vote decided.
"""

import numpy as np
from jaxtyping import Float

from diffdx._typing import Errors
from diffdx.classification.evidence_store import ErrorMaps
from diffdx.classification.voting import majority_vote

EvidenceParts = Float[np.ndarray, "H W parts"]


def evidence_parts(maps: ErrorMaps, y_for: int, y_against: int) -> EvidenceParts:
    """Return the evidence for a class in parts by log-SNR, noisy to clean.

    Args:
        maps: Of each class's errors, as `diffdx.classification.evidence` adds them up.
        y_for: The class that positive evidence speaks for.
        y_against: The class it is compared with; the mean of all others if it is `y_for` itself.
    """
    other = maps[y_against] if y_against != y_for else np.delete(maps, y_for, axis=0).mean(axis=0)
    parts: EvidenceParts = other - maps[y_for]
    return parts


def over_pixels(parts: EvidenceParts, height: int, width: int) -> Float[np.ndarray, "h w parts"]:
    """Return the evidence in the size of the image, each value spread evenly; the sum stays.

    Only where the network sees latents is a map smaller than the image.

    Raises:
        ValueError: if the image's sides are no multiples of the map's.
    """
    down, across = height // parts.shape[0], width // parts.shape[1]
    if (down * parts.shape[0], across * parts.shape[1]) != (height, width):
        raise ValueError(
            f"a map of {parts.shape[0]} x {parts.shape[1]} does not cover an image of "
            f"{height} x {width} evenly"
        )
    spread: EvidenceParts = parts.repeat(down, axis=0).repeat(across, axis=1) / (down * across)
    return spread


def vote_agrees(errors: Errors, margin: float, y_for: int, y_against: int) -> bool:
    """Say whether the votes of one image lean to the same side as the margin; a tie agrees.

    Args:
        errors: Of this image alone.
        margin: Sum of its evidence.
        y_for: The class that a positive margin speaks for.
        y_against: The other class; all others if it is `y_for` itself.
    """
    votes = majority_vote(errors)[0]
    against = votes[y_against] if y_against != y_for else np.delete(votes, y_for).max()
    return bool((votes[y_for] - against) * margin >= 0)
