"""Which images make up which batch: a pure function of (seed, step).

Nothing is remembered between steps, so a resumed run continues with the very images that an
uninterrupted one would have seen.
"""

from dataclasses import dataclass

import numpy as np

from diffdx._random import epoch_order, purpose_key
from diffdx._typing import Labels


@dataclass
class BatchOrder:
    """Order of training examples.

    Balanced, slot p of the endless sequence of slots takes class p mod K, and its (p div K)-th
    draw from that class. Of a class with S strata, draw d takes stratum d mod S, and its
    (d div S)-th draw. What is drawn from is visited in epochs of its own, every image once an
    epoch. Unbalanced, there is one epoch over all images.

    Attributes:
        labels: Class index of each training image.
        batch_size: Images in a batch.
        seed: Seed of every epoch's order.
        balanced: Whether classes take turns.
        strata: Number of the part of its class that each image belongs to; None is one part.
    """

    labels: Labels
    batch_size: int
    seed: int
    balanced: bool
    strata: Labels | None = None

    def __post_init__(self) -> None:
        one = np.zeros_like(self.labels)
        classes = self.labels if self.balanced else one
        strata = one if self.strata is None or not self.balanced else self.strata
        self._pools: list[Labels] = []
        self._of_class: list[range] = []
        for k in np.unique(classes):
            of_class, first = classes == k, len(self._pools)
            for s in np.unique(strata[of_class]):
                self._pools.append(np.flatnonzero(of_class & (strata == s)))
            self._of_class.append(range(first, len(self._pools)))
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def batch(self, step: int) -> Labels:
        """Return the indices of the images of batch `step` (from 0)."""
        slots = range(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self._slot(p) for p in slots])

    def _slot(self, p: int) -> int:
        draw, k = divmod(p, len(self._of_class))
        pools = self._of_class[k]
        return self._draw(pools[draw % len(pools)], draw // len(pools))

    def _draw(self, pool: int, draw: int) -> int:
        members = self._pools[pool]
        epoch, position = divmod(draw, len(members))
        if pool not in self._epochs or self._epochs[pool][0] != epoch:
            seed = purpose_key(self.seed, f"pool {pool}")
            self._epochs[pool] = epoch, epoch_order(seed, epoch, len(members)).numpy()
        return int(members[self._epochs[pool][1][position]])
