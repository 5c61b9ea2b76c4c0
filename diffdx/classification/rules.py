"""Decision rules as data: from one store of errors to the scores and decisions of each rule.

    rule                    score of class k               decision
    vote                    vote share of k                most votes
    mean_v mean_eps mean_x  mean over j != k of e_j - e_k  smallest e, the mean error in that space
    weighted                weighted error differences     largest score

`weighted` exists where a calibration has fitted its weights (`diffdx.classification.weighted`). A
score is what AUROC ranks: larger = more like that class. With two classes the mean rules' score of
the positive class is e_negative - e_positive. There is one `vote`, because a vote is the same in
every space.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float

from diffdx._typing import Errors, Labels, LogSNRs, Space
from diffdx.classification.voting import (
    Ties,
    majority_vote,
    mean_error,
    predict_mean,
    predict_vote,
    vote_share,
)
from diffdx.classification.weighted import LogSNRWeights, weighted_scores

RULES = ("vote", "mean_v", "mean_eps", "mean_x")
"""Rules that need nothing but the errors."""
WEIGHTED = "weighted"
"""The rule that needs fitted weights besides."""


def rule_name(rule: str, space: str) -> str:
    """Return what `--rule` and `--space` name: the mean rule of a space, or the rule itself."""
    return f"mean_{space}" if rule == "mean" else rule


@dataclass(frozen=True)
class Decisions:
    """What a rule says about each image."""

    scores: Float[np.ndarray, "B K"]
    """Larger = more like the class."""
    y_hat: Labels
    """Chosen classes."""
    tied: Bool[np.ndarray, "B"]
    """Whether two classes were equally good; the lower index was taken."""


def apply_rule(
    rule: str,
    errors: Errors,
    logsnr: LogSNRs,
    *,
    ties: Ties = "split",
    weights: LogSNRWeights | None = None,
) -> Decisions:
    """Return the scores and decisions of a rule.

    Args:
        rule: One of `RULES`, or `weighted`.
        errors: Mean squared v errors >= 0; NaN under every class of a trial that was not run.
        logsnr: log(alpha^2 / sigma^2) of each trial, in nats.
        ties: What a tied trial gives to the classes; only the vote knows it.
        weights: What `weighted` weighs with.

    Raises:
        ValueError: if the rule is unknown, or `weighted` has no weights.
    """
    if rule == WEIGHTED:
        if weights is None:
            raise ValueError("rule 'weighted' needs fitted weights; run `diffdx calibrate` first")
        scores = weighted_scores(errors, logsnr, weights)
        tied = scores == scores.max(axis=1, keepdims=True)
        return Decisions(scores, scores.argmax(axis=1), tied.sum(axis=1) > 1)
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is none of {', '.join((*RULES, WEIGHTED))}")
    if rule == "vote":
        votes = majority_vote(errors, ties=ties)
        return Decisions(vote_share(votes), *predict_vote(votes))
    mean = mean_error(errors, logsnr, cast(Space, rule.removeprefix("mean_")))
    others = (mean.sum(axis=1, keepdims=True) - mean) / (mean.shape[1] - 1)
    return Decisions(others - mean, *predict_mean(mean))
