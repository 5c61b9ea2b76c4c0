"""Which calibration images a guarantee may count: one of each patient.

Conformal sets, triage and the out-of-distribution gate promise something about the next image on
the ground that it is exchangeable with the calibration images. Several images of one patient are
alike, so they are not exchangeable with the image of a new one; one image drawn of each patient is.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def one_per_patient(
    patients: Sequence[str] | None, num_images: int, *, seed: int = 0
) -> Int[np.ndarray, "patients"]:
    """Return the index of one image of each patient, drawn at random, ascending.

    Args:
        patients: The patient of each image; None takes every image for a patient of its own.
        num_images: Number of images.
        seed: Seed of the draw.

    Raises:
        ValueError: if there are not as many patients as images, since they could not be matched.
    """
    if patients is None:
        return np.arange(num_images)
    if len(patients) != num_images:
        raise ValueError(f"{num_images} images but {len(patients)} patients; give one for each")
    order = np.random.default_rng(seed).permutation(num_images)
    _, first = np.unique(np.asarray(patients, dtype=str)[order], return_index=True)
    chosen: np.ndarray = np.sort(order[first])
    return chosen
