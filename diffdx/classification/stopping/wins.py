"""Who won which trials, counted trial by trial, and who can hardly catch up any more."""

import numpy as np
from jaxtyping import Bool, Float, Int

from diffdx.classification.stopping.boundary import Boundary
from diffdx.classification.voting import Ties, trial_votes

Counts = Int[np.ndarray, "K n"]
"""Trials won so far, after each trial."""


def win_counts(errors: Float[np.ndarray, "K n"], ties: Ties) -> tuple[Counts, Counts]:
    """Return after each trial the sole wins of each class, and its wins with shared ones counted.

    The votes of a class lie between the two, however ties are split.

    Args:
        errors: Mean squared errors of one image; `inf` = eliminated class.
        ties: With `lowest` no win is shared.

    Raises:
        ValueError: if a trial has no vote (see `trial_votes`).
    """
    shares = trial_votes(errors[None], ties=ties)[0]
    return (shares == 1).cumsum(axis=1), (shares > 0).cumsum(axis=1)


def behind(
    sole: Counts, shared: Counts, boundary: Boundary, remaining: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "K n"]:
    """Return after each trial which classes trail the leader, most sole wins, by the boundary.

    Class j trails leader i if sole_i - shared_j >= boundary[m] for the m = sole_i + shared_j trials
    that concern the two, or if it exceeds the trials that remain, so that j cannot catch up.

    Args:
        sole: Sole wins of each class.
        shared: Wins of each class, shared ones included.
        boundary: Leads that suffice, entry m-1 after m trials.
        remaining: Trials of the full run still to come.
    """
    most = sole.max(axis=0)
    never = np.append(len(boundary) + 1, boundary)
    # The leader's own entry would point beyond the table; it is overwritten.
    contested = np.minimum(most + shared, len(boundary))
    trails: Bool[np.ndarray, "K n"] = most - shared >= np.minimum(never[contested], remaining + 1)
    np.put_along_axis(trails, sole.argmax(axis=0)[None], False, axis=0)
    return trails
