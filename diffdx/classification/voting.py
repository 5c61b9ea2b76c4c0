"""From stored denoising errors to a decision: who denoised best, how often, and by how much.

Every rule reads one array `errors[b, k, n]`: the mean squared v error of image b under class k in
trial n, the same noisy image for all classes of a trial (spec section 3, paper Eq. 4).

    vote     votes[b, k] = sum_n 1[k = argmin_j errors[b, j, n]]     most votes win
    mean     mean_error[b, k] = sum_n errors[b, k, n] / N            the smallest mean error wins
    spaces   eps error = alpha^2 v error,  x error = sigma^2 v error
             alpha^2 = sigmoid(logsnr) = 1 - sigma^2

The factor of a space is common to the classes of a trial, so the vote is the same in every space;
the mean is not. Two marks are understood everywhere: `inf` is a class already eliminated, NaN
(under all classes of a trial at once) a trial that was never run because the image had stopped.
Everything here is numpy; no network is ever called.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from diffdx._typing import Errors, Labels, LogSNRs, Space, Votes, VoteShare

MeanErrors = Float[np.ndarray, "B K"]
TrialCounts = Int[np.ndarray, "B"]
Entropies = Float[np.ndarray, "B"]
Flags = Bool[np.ndarray, "B"]
Ties = Literal["split", "lowest"]

# Split ties add up fractions such as 1/3, whose float64 sums are exact to far better than this.
_VOTE_TOLERANCE = 1e-6


def trial_votes(errors: Errors, *, ties: Ties = "split") -> Errors:
    """Return what each class wins in each trial: 1 if its error is smallest, a share in a tie.

    Args:
        errors: Denoising errors >= 0, any unit common to the classes of a trial; `inf` = eliminated
            class, NaN under every class = trial not run.
        ties: `split` shares a tied trial evenly; `lowest` gives it to the lowest class index, as
            argmin does (the paper's code).

    Returns:
        (B, K, N); sums to 1 over the classes of a trial that was run, and is 0 for one that was
        not.

    Raises:
        ValueError: if a trial has no finite error or NaN under some classes only, since its vote
            would be meaningless.
    """
    missing = np.isnan(errors)
    absent = missing.all(axis=1)
    if (missing.any(axis=1) != absent).any():
        raise ValueError(
            "a trial has NaN errors under some classes only; mark an eliminated class with inf"
        )
    smallest = errors.min(axis=1, keepdims=True)
    if np.isinf(smallest).any():
        raise ValueError(
            "a trial has no finite error: its vote would be meaningless; mark it NaN to skip it"
        )
    winners = (errors == smallest).astype(np.float64)
    if ties == "lowest":
        winners *= np.cumsum(winners, axis=1) == 1
    shares: Errors = winners / np.maximum(winners.sum(axis=1, keepdims=True), 1)
    return shares


def majority_vote(errors: Errors, *, ties: Ties = "split") -> Votes:
    """Count, for each image, the trials in which each class denoises best.

    votes[b, k] = sum_n 1[k = argmin_j errors[b, j, n]]        (paper section 2.3, appendix A)

    Args:
        errors: Denoising errors >= 0, any unit common to the classes of a trial; `inf` marks a
            class already eliminated, NaN under every class a trial that was not run.
        ties: `split` shares a tied trial evenly, `lowest` gives it to the lowest class index (the
            paper's code).

    Returns:
        Votes per class; rows sum to the number of trials that were run.

    Raises:
        ValueError: if a trial has no finite error, since its vote would be meaningless.
    """
    votes: Votes = trial_votes(errors, ties=ties).sum(axis=2)
    return votes


def count_tied_trials(errors: Errors) -> TrialCounts:
    """Return for each image the number of trials whose smallest error several classes share."""
    winners = (trial_votes(errors) > 0).sum(axis=1)
    tied: TrialCounts = (winners > 1).sum(axis=1)
    return tied


def count_trials(errors: Errors) -> TrialCounts:
    """Return for each image the number of trials that were run (not NaN)."""
    run: TrialCounts = (~np.isnan(errors).all(axis=1)).sum(axis=1)
    return run


def vote_share(votes: Votes) -> VoteShare:
    """Return votes divided by their sum: an effect size, not a probability (spec section 5).

    Raises:
        ValueError: if an image has no votes, since it has no share either.
    """
    total = votes.sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise ValueError("an image has no votes; leave out images whose trials were not run")
    share: VoteShare = votes / total
    return share


def vote_entropy(share: VoteShare) -> Entropies:
    """Return the uncertainty of each image: the entropy of its vote share in bits, 0 to log2(K).

    H[b] = -sum_k share[b, k] log2 share[b, k],   0 log 0 = 0      (paper sections 2.3 and 4.4)

    Raises:
        ValueError: if a row is not a distribution over the classes (counts instead of shares, most
            likely).
    """
    if (share < 0).any() or not np.allclose(share.sum(axis=1), 1.0, atol=1e-5):
        raise ValueError(
            "each row must be >= 0 and sum to 1; pass vote_share(votes), not the votes themselves"
        )
    log2 = np.log2(share, out=np.zeros_like(share), where=share > 0)
    # Adding 0 turns the -0.0 of a unanimous vote into 0.0.
    entropy: Entropies = -(share * log2).sum(axis=1) + 0.0
    return entropy


def to_space(errors: Errors, logsnr: LogSNRs, space: Space) -> Errors:
    """Return stored v errors as errors in another space.

    eps error = alpha^2 v error,   x error = sigma^2 v error       (spec section 3)

    Computed in float64: two float32 errors that differ still differ after the product, so no vote
    can change.

    Args:
        errors: Mean squared v errors.
        logsnr: log(alpha^2 / sigma^2) of every trial, (B, N), in nats.
        space: `v`, `eps` or `x`.
    """
    if space == "v":
        return errors.astype(np.float64)
    signed = {"eps": 1.0, "x": -1.0}[space] * logsnr.astype(np.float64)
    # sigmoid(signed) without overflow.
    return errors * np.exp(-np.logaddexp(0.0, -signed))[:, None, :]


def mean_error(errors: Errors, logsnr: LogSNRs, space: Space = "v") -> MeanErrors:
    """Return the mean error of each class over the trials that were run (paper Eq. 3).

    An eliminated class (`inf`) has mean `inf`.

    Raises:
        ValueError: if an image has no trial, since it has no mean either.
    """
    run = ~np.isnan(errors)
    if not run.any(axis=2).all():
        raise ValueError("an image has no trial that was run; leave it out")
    total = np.where(run, to_space(errors, logsnr, space), 0.0).sum(axis=2)
    mean: MeanErrors = total / run.sum(axis=2)
    return mean


def predict_vote(votes: Votes) -> tuple[Labels, Flags]:
    """Return the class with most votes, and whether several have as many (the lowest index wins).

    Raises:
        ValueError: if an image has no votes.
    """
    if (votes.sum(axis=1) <= 0).any():
        raise ValueError("an image has no votes; leave out images whose trials were not run")
    tied = votes >= votes.max(axis=1, keepdims=True) - _VOTE_TOLERANCE
    return tied.argmax(axis=1), tied.sum(axis=1) > 1


def predict_mean(mean_errors: MeanErrors) -> tuple[Labels, Flags]:
    """Return the class of smallest mean error, and whether several share it (lowest index wins).

    Raises:
        ValueError: if an image has no finite mean error.
    """
    smallest = mean_errors.min(axis=1, keepdims=True)
    if not np.isfinite(smallest).all():
        raise ValueError("an image has no finite mean error; leave it out")
    tied = mean_errors == smallest
    return tied.argmax(axis=1), tied.sum(axis=1) > 1
