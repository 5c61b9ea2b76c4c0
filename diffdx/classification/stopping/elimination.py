"""`--eliminate`: classes without hope are given up, and the rest of the calls saved.

A class is dropped at the first trial at which it trails the leader by the pair boundary of
`DELTA` (diffdx.classification.stopping.votes); the trials after it are won by whoever is best among
those left. The votes that a dropped class would have won then go to others, so the counts are no
longer draws from the full run's bank and the bound of `DELTA` does **not** carry over. This is a
rule of its own, whose agreement with the full decision is measured.
"""

import numpy as np
from jaxtyping import Float, Int

from diffdx.classification.stopping.boundary import first_stop, lead_boundary
from diffdx.classification.stopping.wins import behind, win_counts
from diffdx.classification.voting import Ties

STRICTNESS = 0.01
"""Default strictness of the pair boundary."""


class Elimination:
    """Gives up classes that trail the leader by the pair boundary.

    A dropped class never has most votes: the leader had more, and a dropped class wins no more.

    Attributes:
        name: `eliminate:STRICTNESS`.
        first_trials: No class is dropped before this many trials.
    """

    def __init__(
        self,
        num_classes: int,
        num_trials: int,
        *,
        ties: Ties = "split",
        strictness: float = STRICTNESS,
    ) -> None:
        """Solve the boundary of `DELTA` = strictness, or take it from the cache.

        Args:
            num_classes: K >= 2.
            num_trials: N of the full run.
            ties: How a tied trial's vote is counted.
            strictness: The delta that the pair boundary would have, in (0, 1); no error of this
                rule.

        Raises:
            ConfigError: if strictness is not in (0, 1).
        """
        self.name = f"eliminate:{strictness:g}"
        self.num_trials, self.ties = num_trials, ties
        self.boundary = lead_boundary(
            num_trials, strictness / (num_classes - 1), any_size=num_classes > 2
        )
        self.first_trials = first_stop(self.boundary)

    def apply(self, errors: Float[np.ndarray, "K n"]) -> tuple[Int[np.ndarray, "K"], int | None]:
        """Set the errors of classes already given up to `inf`, in place.

        Args:
            errors: Mean squared errors of the first n trials.

        Returns:
            `dropped_after`, and after how many trials one class was left; None if several are.
        """
        n = errors.shape[1]
        dropped_after = self.dropped_after(errors)
        errors[np.arange(n) >= dropped_after[:, None]] = np.inf
        alone = (dropped_after < n).sum() == len(errors) - 1
        return dropped_after, int(np.sort(dropped_after)[-2]) if alone else None

    def dropped_after(self, errors: Float[np.ndarray, "K n"]) -> Int[np.ndarray, "K"]:
        """Return after how many of these trials each class is given up; n if it is still alive.

        Depends on earlier trials alone, and on a class's errors only until it is dropped: errors of
        a full run and those of a run that eliminated give the same.

        Args:
            errors: Mean squared errors of the first n trials.
        """
        num_classes, n = errors.shape
        dropped_after = np.full(num_classes, n)
        alive = np.ones(num_classes, bool)
        sole = shared = np.zeros((num_classes, 1), np.int64)
        start = 0
        while start < n and alive.sum() > 1:
            rest = np.where(alive[:, None], errors[:, start:], np.inf)
            more_sole, more_shared = win_counts(rest, self.ties)
            sole, shared = sole[:, -1:] + more_sole, shared[:, -1:] + more_shared
            remaining = self.num_trials - np.arange(start + 1, n + 1)
            trails = behind(sole, shared, self.boundary, remaining) & alive[:, None]
            if not trails.any():
                break
            time = int(trails.any(axis=0).argmax())
            start += time + 1
            dropped_after[trails[:, time]] = start
            alive &= ~trails[:, time]
            sole, shared = sole[:, : time + 1], shared[:, : time + 1]
        return dropped_after
