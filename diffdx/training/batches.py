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
    draw from that class; each class is visited in epochs of its own, every image once an epoch.
    Unbalanced, there is one epoch over all images.

    Attributes:
        labels: Class index of each training image.
        batch_size: Images in a batch.
        seed: Seed of every epoch's order.
        balanced: Whether classes take turns.
    """

    labels: Labels
    batch_size: int
    seed: int
    balanced: bool

    def __post_init__(self) -> None:
        classes = np.unique(self.labels) if self.balanced else [None]
        self._pools = [
            np.arange(len(self.labels)) if k is None else np.flatnonzero(self.labels == k)
            for k in classes
        ]
        self._epochs: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> Labels:
        """Return the indices of the images of batch `step` (from 0)."""
        slots = range(step * self.batch_size, (step + 1) * self.batch_size)
        num_pools = len(self._pools)
        return np.array([self._draw(p % num_pools, p // num_pools) for p in slots])

    def _draw(self, pool: int, draw: int) -> int:
        members = self._pools[pool]
        epoch, position = divmod(draw, len(members))
        if (pool, epoch) not in self._epochs:
            # Keep only the epochs in use: a batch may straddle two.
            self._epochs = {k: v for k, v in self._epochs.items() if k[1] >= epoch - 1}
            seed = purpose_key(self.seed, f"pool {pool}")
            self._epochs[pool, epoch] = epoch_order(seed, epoch, len(members)).numpy()
        return int(members[self._epochs[pool, epoch][position]])
