"""Is this an image of the kind that the model knows? Asked of the errors before any class is named.

A classifier must choose among its classes, also for a photograph of a skin lesion. The denoising
errors under all classes tell such images apart: foreign structure is denoised badly at some noise
levels, and a smooth foreign image too well, so both directions count; and an X-ray with black and
white exchanged fits one class better, at some noise levels, than any X-ray does. With l[b, k, n] =
log errors[b, k, n] and m(logsnr) the usual mean over the classes of such logarithms:

    level  r[b, n]    = mean over k of l[b, k, n] - m(logsnr[b, n])
    lead   c[b, k, n] = mean over the other classes j of l[b, j, n] - l[b, k, n]
    a[b]              = (mean of r in each of 6 bins of log-SNR; mean of c_2 .. c_K in each of 3)
    d2[b]             = (a - mu)' (Sigma + diag(tau^2 / n_b))^-1 (a - mu)

Sigma is how images differ from each other, tau^2 how trials of one image do: divided by the image's
trials in the bin, it makes images of few trials, or of early stopping, comparable with others (a
bin without trials counts for nothing). mu, Sigma, tau and m come from one half of the calibration
patients. The other half ranks: -log P(chi2 >= d2) exceeds its like in a share p of that half, and
an image is flagged if p <= the false-alarm rate. So at most that share of images exchangeable with
the calibration's is flagged, whatever the distribution of errors. Trials should be as many, and
stopped as, in calibration.

No label is used. A flag says that the answer means nothing, not what the image is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import chi2

from diffdx._typing import Errors, LogSNRs
from diffdx.uncertainty.error_profile import Profile, error_profile, mean_curve, num_columns
from diffdx.uncertainty.exchangeable import one_per_patient

_LEVEL_BINS = 6
_FEWEST_PATIENTS = 60
_PATIENTS_PER_NUMBER = 4
# A variance of log errors far below any real one, to divide by where errors are all alike.
_TINY = 1e-12


@dataclass(frozen=True)
class OutOfDistributionGate:
    """What errors are usual, and the scores that usual images get."""

    false_alarm: float
    """Share of usual images that may be flagged, in (0, 1)."""
    edges: tuple[float, ...]
    """Inner edges of the log-SNR bins of the level in nats, ascending; leads take two bins each."""
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    """m: log-SNRs, ascending, and the mean log error there; linear between, constant beyond."""
    centre: tuple[float, ...]
    """mu: levels by bin, then the leads of each class but the first by bin."""
    between: tuple[tuple[float, ...], ...]
    """Sigma: covariance over images."""
    within: tuple[float, ...]
    """tau^2: variance over the trials of an image."""
    scores: tuple[float, ...]
    """Scores of the ranking half of the calibration patients, ascending."""

    def surprise(self, errors: Errors, logsnr: LogSNRs) -> Float[np.ndarray, "B"]:
        """Return -log P(chi2 >= d2): how unusual each image's errors are, >= 0.

        Args:
            errors: Mean squared v errors; NaN under every class of a trial that was not run, inf
                under an eliminated class.
            logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        """
        profile = error_profile(errors, logsnr, self.edges, self.curve)
        seen = profile.counts > 0
        off = np.where(seen, profile.means - np.asarray(self.centre), 0.0)
        # An endless variance takes a bin without trials out.
        noise = np.asarray(self.within) / np.where(seen, profile.counts, _TINY)
        spread = np.asarray(self.between) + noise[:, :, None] * np.eye(len(self.centre))
        d2 = (off * np.linalg.solve(spread, off[:, :, None])[:, :, 0]).sum(axis=1)
        surprise: np.ndarray = -chi2.logsf(d2, df=np.maximum(seen.sum(axis=1), 1))
        return surprise

    def p_values(self, errors: Errors, logsnr: LogSNRs) -> Float[np.ndarray, "B"]:
        """Return the share of usual images that are at least as unusual, in (0, 1].

        p = (1 + #{calibration scores >= score}) / (n + 1), uniform or larger for usual images.

        Args:
            errors: As for `surprise`.
            logsnr: As for `surprise`.
        """
        known = np.asarray(self.scores)
        above = len(known) - np.searchsorted(known, self.surprise(errors, logsnr), side="left")
        p: np.ndarray = (1 + above) / (len(known) + 1)
        return p

    def flags(self, errors: Errors, logsnr: LogSNRs) -> Bool[np.ndarray, "B"]:
        """Return whether each image is unlike those of the calibration.

        Args:
            errors: As for `surprise`.
            logsnr: As for `surprise`.
        """
        return self.unusual(self.p_values(errors, logsnr))

    def unusual(self, p_values: Float[np.ndarray, "B"]) -> Bool[np.ndarray, "B"]:
        """Return which p values are small enough for a flag."""
        return np.asarray(p_values <= self.false_alarm)

    def notices(self) -> list[str]:
        """Return a sentence if so few patients rank that no image can ever be flagged."""
        n = len(self.scores)
        if (n + 1) * self.false_alarm >= 1:
            return []
        return [
            f"Out of distribution: too few calibration patients ({n} to rank by) for a gate "
            f"with a false-alarm rate of {self.false_alarm:g}; no image can be flagged."
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "OutOfDistributionGate":
        """Return the gate that `as_dict` described.

        Args:
            stored: The fields by their names.
        """
        return cls(**{name: _frozen(value) for name, value in stored.items()})


def fit_gate(
    errors: Errors,
    logsnr: LogSNRs,
    *,
    false_alarm: float = 0.05,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> OutOfDistributionGate:
    """Return a gate that knows the calibration images for usual.

    Args:
        errors: Mean squared v errors of calibration images, trials as in later use.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        false_alarm: Share of usual images that may be flagged, in (0, 1).
        groups: The patient of each image; one image of each is used.
        seed: Seed of that draw and of the halves.

    Returns:
        The gate. With fewer patients than it takes to learn how images differ (60; more for more
        than six classes) none are left to rank by, and it never flags: `notices` says so.

    Raises:
        ValueError: if the rate is no share, or there is no image.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must lie in (0, 1), for example 0.05; it is {false_alarm}")
    if len(errors) == 0:
        raise ValueError("an out-of-distribution gate needs calibration images; there are none")
    chosen = one_per_patient(groups, len(errors), seed=seed)
    # A stream of its own: the halves must not depend on which images were drawn.
    order = np.random.default_rng([seed, 1]).permutation(chosen)
    fewest = max(_FEWEST_PATIENTS, _PATIENTS_PER_NUMBER * num_columns(errors.shape[1], _LEVEL_BINS))
    half = len(order) // 2 if len(order) >= fewest else len(order)
    usual, ranking = order[:half], order[half:]
    run = ~np.isnan(errors[usual]).all(axis=1)
    edges = np.quantile(logsnr[usual][run], np.linspace(0, 1, _LEVEL_BINS + 1))[1:-1]
    curve = mean_curve(errors[usual], logsnr[usual])
    profile = error_profile(errors[usual], logsnr[usual], edges, curve)
    shape = {"edges": edges, "curve": curve, **_usual_shape(profile)}
    stored = {"false_alarm": false_alarm, **{name: v.tolist() for name, v in shape.items()}}
    unranked = OutOfDistributionGate.from_dict({**stored, "scores": []})
    scores = np.sort(unranked.surprise(errors[ranking], logsnr[ranking]))
    return OutOfDistributionGate.from_dict({**stored, "scores": scores.tolist()})


def _usual_shape(profile: Profile) -> dict[str, np.ndarray]:
    """mu, Sigma and tau^2: what images have in common, and how they and their trials differ."""
    counts, seen = profile.counts, profile.counts > 0
    images = np.maximum(seen.sum(axis=0), 1)
    centre = np.where(seen, profile.means, 0).sum(axis=0) / images
    free = np.maximum(counts - 1, 0).sum(axis=0)
    within = np.maximum(profile.squares.sum(axis=0) / np.maximum(free, 1), _TINY)
    off = np.where(seen, profile.means - centre, 0)
    both = seen.T.astype(float) @ seen
    observed = (off.T @ off) / np.maximum(both - 1, 1)
    # What the trials alone would make the means differ is added image by image later.
    by_trials = within * np.where(seen, 1 / np.maximum(counts, 1), 0).sum(axis=0) / images
    values, vectors = np.linalg.eigh(observed - np.diag(by_trials))
    between = (vectors * np.maximum(values, 0)) @ vectors.T
    return {"centre": centre, "between": between, "within": within}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
