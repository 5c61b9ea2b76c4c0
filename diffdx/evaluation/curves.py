"""Curves behind the figures: what more trials bring, and which noise levels tell classes apart."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from diffdx.classification.rules import Decisions, apply_rule
from diffdx.classification.voting import trial_votes
from diffdx.evaluation.predictions import StoredPredictions
from diffdx.evaluation.summary import metric_functions
from diffdx.metrics import accuracy, auroc, bootstrap_by_patient

Curve = Float[np.ndarray, "points"]


@dataclass(frozen=True)
class TrialCurve:
    """A metric against the number of trials, with 95% bounds at each point."""

    trials: Curve
    value: Curve
    low: Curve
    high: Curve


def by_trials(
    stored: StoredPredictions, rule: str, *, points: int = 20
) -> tuple[Curve, Curve, Curve]:
    """Return numbers of trials, and a rule's accuracy and AUROC with only so many (paper Fig. 2).

    The first n trials of a bank are what a run of n trials would have computed, so no run is
    repeated.

    Args:
        stored: Labelled predictions.
        rule: One of `diffdx.evaluation.RULES`.
        points: Numbers of trials to try: odd, from 1 to all, evenly spaced on a logarithmic scale.
    """
    y, counts, scored = stored.labels, [], []
    for n, made in _by_first_trials(stored, rule, points):
        counts.append(n)
        scored.append((accuracy(y, made.y_hat), auroc(y, made.scores, positive=stored.positive)))
    accuracies, areas = np.array(scored).T
    return np.array(counts, dtype=float), accuracies, areas


def curve_by_trials(
    runs: Sequence[StoredPredictions],
    rule: str,
    metric: str,
    resamples: Float[np.ndarray, "resamples n"],
    *,
    points: int = 12,
) -> TrialCurve:
    """Return a metric of a rule against the number of trials, with intervals (paper Fig. 2).

    Args:
        runs: Labelled predictions of the same images in the same order, with as many trials, by
            one model or by several seeds of it: the metric is their mean.
        rule: One of `diffdx.evaluation.RULES`.
        metric: One of `diffdx.evaluation.summary.METRICS`.
        resamples: Of the patients, from `patient_resamples`.
        points: As of `by_trials`.
    """
    counts, found = [], []
    for together in zip(*(_by_first_trials(run, rule, points) for run in runs), strict=True):
        scores = [
            metric_functions(run.labels, made, run.positive)[metric]
            for run, (_, made) in zip(runs, together, strict=True)
        ]
        found.append(bootstrap_by_patient(partial(_mean, scores), resamples))
        counts.append(together[0][0])
    columns = ([getattr(one, name) for one in found] for name in ("value", "low", "high"))
    return TrialCurve(np.array(counts, dtype=float), *(np.array(column) for column in columns))


def _mean(scores: Sequence[Callable[..., float]], weights: Float[np.ndarray, "n"]) -> float:
    return float(np.mean([score(weights=weights) for score in scores]))


def _by_first_trials(
    stored: StoredPredictions, rule: str, points: int
) -> Iterator[tuple[int, Decisions]]:
    """Yield numbers of trials, and what a rule decides on the first so many."""
    num_trials = stored.errors.shape[2]
    counts = np.unique(np.geomspace(1, num_trials, points).astype(int) // 2 * 2 + 1)
    for n in np.unique(np.minimum(counts, num_trials)).tolist():
        first = stored.errors[:, :, :n], stored.logsnr[:, :n]
        yield n, apply_rule(rule, *first, ties=stored.settings["ties"])


def true_share_by_logsnr(
    stored: StoredPredictions, *, bins: int = 12
) -> tuple[Curve, Float[np.ndarray, "K points"]]:
    """Return log-SNR bin centres, and the share of votes that each class wins on its own images.

    Chance level is 1/K; where a class stays there, that noise level does not tell it from the
    others.

    Args:
        stored: Labelled predictions.
        bins: Bins of equal width over the range of the trials' log-SNR, in nats.

    Returns:
        Centres, ascending; shares in [0, 1], nan for a class without images or a bin without
        trials.
    """
    won = trial_votes(stored.errors, ties=stored.settings["ties"])
    run = ~np.isnan(stored.errors).all(axis=1)
    edges = np.linspace(stored.logsnr[run].min(), stored.logsnr[run].max(), bins + 1)
    bin_of_trial = np.clip(np.searchsorted(edges, stored.logsnr, side="right") - 1, 0, bins - 1)
    shares = np.full((len(stored.classes), bins), np.nan)
    for k in range(len(stored.classes)):
        mine = run & (stored.labels == k)[:, None]
        trials = np.bincount(bin_of_trial[mine], minlength=bins)
        votes = np.bincount(bin_of_trial[mine], weights=won[:, k][mine], minlength=bins)
        shares[k] = np.divide(votes, trials, out=shares[k], where=trials > 0)
    return (edges[1:] + edges[:-1]) / 2, shares
