"""Do generated images look like real ones to a network that was trained on real ones?

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)
    k(a, b) = (a . b / d + 1)^3

between features a of one set and b of another, d of them each: the kernel inception distance
(Binkowski et al., "Demystifying MMD GANs", 2018) on the features of the user's own classifier. The
estimate is unbiased, so few images do not inflate it as they do the Frechet distance, and it may
come out below zero for two sets of one distribution.
"""

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "n d"]
Weights = Float[np.ndarray, "n"]


def standardised(features: Features, reference: Float[np.ndarray, "m d"]) -> Features:
    """Return features about the reference's mean, in units of its root mean square deviation.

    One unit for all: a feature that hardly varies among few real images would else, on its own, be
    the whole distance.
    """
    unit = np.sqrt(reference.var(axis=0).mean())
    scaled: np.ndarray = (features - reference.mean(axis=0)) / (unit if unit > 0 else 1)
    return scaled


class KernelDistance:
    """The squared maximum mean discrepancy of two sets of features, by the equation above."""

    def __init__(self, a: Features, b: Float[np.ndarray, "m d"]) -> None:
        """Compute the kernels once, for any weights."""
        self.within_a, self.within_b, self.between = _kernel(a, a), _kernel(b, b), _kernel(a, b)

    def __call__(
        self, a_weights: Weights | None = None, b_weights: Float[np.ndarray, "m"] | None = None
    ) -> float:
        """Return the distance with every image counted as often as its weight says.

        Args:
            a_weights: Of the first set, >= 0; once each by default. Repetitions of one image make
                no pair, since it would be a pair with itself.
            b_weights: Of the second set, likewise.

        Returns:
            About 0 for sets of one distribution, larger for others; nan if a set has fewer than two
            images.
        """
        n, m = self.between.shape
        w_a = np.ones(n) if a_weights is None else a_weights
        w_b = np.ones(m) if b_weights is None else b_weights
        within = _mean_of_pairs(self.within_a, w_a) + _mean_of_pairs(self.within_b, w_b)
        if np.isnan(within):
            return float("nan")
        return within - 2 * float(w_a @ self.between @ w_b / (w_a.sum() * w_b.sum()))


def _kernel(a: Features, b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    values: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
    return values


def _mean_of_pairs(kernel: Float[np.ndarray, "n n"], weights: Weights) -> float:
    """Return the mean over pairs of different images; nan if there is none."""
    with_itself = float(weights**2 @ kernel.diagonal())
    pairs = weights.sum() ** 2 - (weights**2).sum()
    return float((weights @ kernel @ weights - with_itself) / pairs) if pairs > 0 else float("nan")
