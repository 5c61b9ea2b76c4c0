"""Curves behind the figures: what more trials bring, and which noise levels tell classes apart."""

import numpy as np
from jaxtyping import Float

from diffdx.classification.rules import apply_rule
from diffdx.classification.voting import trial_votes
from diffdx.evaluation.predictions import StoredPredictions
from diffdx.metrics import accuracy, auroc

Curve = Float[np.ndarray, "points"]


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
    num_trials = stored.errors.shape[2]
    counts = np.unique(np.geomspace(1, num_trials, points).astype(int) // 2 * 2 + 1)
    counts = np.unique(np.minimum(counts, num_trials))
    y, scored = stored.labels, []
    for n in counts:
        made = apply_rule(
            rule, stored.errors[:, :, :n], stored.logsnr[:, :n], ties=stored.settings["ties"]
        )
        scored.append((accuracy(y, made.y_hat), auroc(y, made.scores, positive=stored.positive)))
    accuracies, areas = np.array(scored).T
    return counts.astype(float), accuracies, areas


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
