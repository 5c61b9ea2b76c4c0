"""Another site: class shares and a shift of the score, both found without a label.

Another scanner or processing moves the weighted score of every image by about the same amount,
whatever its class: the network finds all of them a little more like one class. A correction of the
prevalence alone takes that for more images of the class and makes it worse. With p(k | u) and m(u)
the probability and the density of the score u at calibration, images of shares s_k at a site that
moves scores by d have the density

    g(z) = m(z - d)  sum_k p(k | z - d) s_k / prior_k

At d = 0 its likelihood is the one that `em` maximises over the shares. Here it is maximised over
shares and d together, |d| being at most half the distance of the classes' mean scores. Then

    p'(k | z)  proportional to  p(k | z - d) s_k / prior_k

Assumed: one shift for all images, and otherwise the same kinds of images. Two classes only. Votes
will not do: their share saturates at 0 and 1, so images of different sureness move differently.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from diffdx._typing import Labels
from diffdx.classification.weighted import Scores
from diffdx.uncertainty.calibrators import Calibrator
from diffdx.uncertainty.prevalence import Shares, estimate_prevalence, require_images

_CENTRES = 199
_STEPS = 20  # shifts tried on either side of 0, before the best is refined


@dataclass(frozen=True)
class ScoreDensity:
    """Density of the score at calibration: Gaussians of one width at evenly spaced quantiles."""

    centres: tuple[float, ...]
    """Quantiles of u = score of the second class less that of the first."""
    width: float
    gap: float
    """Distance of the two classes' mean scores."""

    def log_density(self, u: Float[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        """Return log m(u)."""
        steps = (u[:, None] - np.array(self.centres)) / self.width
        constant = np.log(len(self.centres) * self.width * np.sqrt(2 * np.pi))
        return np.asarray(logsumexp(-(steps**2) / 2, axis=1) - constant)

    def as_dict(self) -> dict[str, Any]:
        """Return a value that JSON can hold."""
        return {**asdict(self), "centres": list(self.centres)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ScoreDensity":
        """Return what `as_dict` stored."""
        return cls(tuple(stored["centres"]), stored["width"], stored["gap"])


def fit_density(scores: Scores, labels: Labels) -> ScoreDensity:
    """Return the density of the calibration images' scores.

    Its width is Silverman's for the class with fewest images, so that neither class is blurred.

    Args:
        scores: Scores of two classes, by weights that had not seen the image.
        labels: True classes; each occurs.
    """
    u = scores[:, 1] - scores[:, 0]
    of_class = [u[labels == k] for k in range(2)]
    width = min(1.06 * own.std() * len(own) ** -0.2 for own in of_class)
    centres = np.quantile(u, (np.arange(_CENTRES) + 0.5) / _CENTRES)
    gap = float(of_class[1].mean() - of_class[0].mean())
    return ScoreDensity(tuple(centres.tolist()), float(max(width, 1e-6 * abs(gap))), gap)


def shifted(scores: Scores, shift: float) -> Scores:
    """Return scores moved back by a site's shift (of the last class against the first)."""
    return np.asarray(scores - np.append(np.zeros(scores.shape[1] - 1), shift))


def estimate_site(
    calibrator: Calibrator, density: ScoreDensity, scores: Scores, prior: Shares
) -> tuple[float, Shares]:
    """Return the shift of the score and the class shares under which the images are likeliest.

    Args:
        calibrator: From score to probability at the shares `prior`.
        density: Of the calibration images' scores.
        scores: Scores of the site's images, unlabelled.
        prior: Class shares of the calibration images, all > 0.

    Raises:
        ConfigError: if there are too few images to estimate from.
    """
    require_images(len(scores), "site")

    def misfit(shift: float) -> float:
        moved = shifted(scores, shift)
        prob = calibrator.probabilities(moved)
        ratio = prob @ (estimate_prevalence(prob, prior) / prior)
        return -float((density.log_density(moved[:, 1] - moved[:, 0]) + np.log(ratio)).sum())

    step = abs(density.gap) / 2 / _STEPS
    grid = step * np.arange(-_STEPS, _STEPS + 1)
    best = int(np.argmin([misfit(shift) for shift in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": step / 50})
    shift = float(found.x)
    return shift, estimate_prevalence(calibrator.probabilities(shifted(scores, shift)), prior)
