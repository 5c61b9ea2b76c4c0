"""NumPy array shapes, each named once. B images, K classes, N trials, H x W pixels, C channels."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

Errors = Float[np.ndarray, "B K N"]
"""Mean squared denoising errors, >= 0, of every image under every class in every trial."""
LogSNRs = Float[np.ndarray, "B N"]
"""log(alpha^2 / sigma^2) of each trial, in nats."""
Votes = Float[np.ndarray, "B K"]
"""Trials won by each class; halves where a tie was split."""
VoteShare = Float[np.ndarray, "B K"]
"""Votes over trials, in [0, 1]; not a probability until calibrated."""
Labels = Int[np.ndarray, "B"]
"""Class indices, 0 .. K-1."""
Pixels = Shaped[np.ndarray, "H W"] | Shaped[np.ndarray, "H W 3"]
"""One decoded image, uint8 or uint16, grey or RGB."""

Space = Literal["v", "eps", "x"]
"""Space in which a denoising error is measured."""
