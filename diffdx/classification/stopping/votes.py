"""When a vote is decided: for certain (`exact`), or up to a stated probability (`DELTA`).

Tied trials are counted against a stop. To declare class i over class j, i has its sole wins only,
and j every trial in which it was among the winners:

    lead_ij = sole_i - shared_j,      sole_i <= votes_i,  votes_j <= shared_j

so the lead is never above the votes' own, whichever way a tied trial's vote is split.

`DELTA`: image b stops at the first n at which the class with most sole wins leads **every** other
by the pair's boundary, `lead_boundary(N, delta / (K - 1))` at the m = sole_i + shared_j trials that
concern the pair. Proof that P(decision differs from the full run's) <= delta: let w be the class
of the full run. Only i != w can be declared wrongly, and then i reached the boundary over w. In the
bank sole_i <= votes_i <= votes_w <= shared_w, so among the trials that concern (i, w), in random
order, at most half are i's: the least favourable bank bounds the probability by delta / (K - 1),
and there are K - 1 such i. With two classes every trial concerns the pair; with more their number
is unknown, so the boundary holds for every number up to N.
"""

import numpy as np
from jaxtyping import Float

from diffdx.classification.stopping.boundary import (
    Boundary,
    first_stop,
    lead_boundary,
    require_delta,
)
from diffdx.classification.stopping.rule import StoppingRule, first_time
from diffdx.classification.stopping.wins import behind, win_counts
from diffdx.classification.voting import Ties, trial_votes

# Fractions of split ties add up to this precision, as in `predict_vote`.
_VOTE_TOLERANCE = 1e-6


class ExactStop(StoppingRule):
    """Stops when no outcome of the remaining trials can change the decision: curtailment.

    The decision is the full run's for certain, for any number of classes, ties between trials and
    between totals included (the lowest class index wins a tied total).
    """

    name = "exact"

    def __init__(self, num_trials: int, ties: Ties = "split") -> None:
        """Take N, the trials of the full run, and how a tied trial's vote is counted."""
        self.num_trials, self.ties = num_trials, ties
        self.first_trials = (num_trials + 1) // 2

    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return the first n at which every other class would lose even by winning all the rest."""
        votes = trial_votes(errors[None], ties=self.ties)[0].cumsum(axis=1)
        remaining = self.num_trials - np.arange(1, votes.shape[1] + 1)
        leader = (votes >= votes.max(axis=0) - _VOTE_TOLERANCE).argmax(axis=0)
        # What each class would be ahead of the leader after winning all the remaining trials.
        best_lead = votes + remaining - np.take_along_axis(votes, leader[None], axis=0)
        lower = np.arange(len(votes))[:, None] < leader
        loses = np.where(
            lower, best_lead < -1.5 * _VOTE_TOLERANCE, best_lead <= 0.5 * _VOTE_TOLERANCE
        )
        np.put_along_axis(loses, leader[None], True, axis=0)
        return first_time(loses.all(axis=0))


class VoteStop(StoppingRule):
    """Stops so that the decision differs from the full run's with probability <= delta, any image.

    Over the random order of the image's trials; see the module docstring for the proof.
    """

    def __init__(
        self, delta: float, num_classes: int, num_trials: int, ties: Ties = "split"
    ) -> None:
        """Solve the boundary, or take it from the cache.

        Raises:
            ConfigError: if delta is not strictly between 0 and 1.
        """
        require_delta(delta)
        self.name = f"{delta:g}"
        self.num_trials, self.ties = num_trials, ties
        self.boundary: Boundary = lead_boundary(
            num_trials, delta / (num_classes - 1), any_size=num_classes > 2
        )
        self.first_trials = first_stop(self.boundary)

    def stopping_time(
        self, errors: Float[np.ndarray, "K n"], logsnr: Float[np.ndarray, "n"]
    ) -> int | None:
        """Return the first n at which one class leads every other by the pair's boundary."""
        sole, shared = win_counts(errors, self.ties)
        remaining = self.num_trials - np.arange(1, errors.shape[1] + 1)
        trailing = behind(sole, shared, self.boundary, remaining)
        return first_time(trailing.sum(axis=0) == len(errors) - 1)
