"""How often each piece of work was begun, counted in a process that outlasts the workers.

Kept apart so that this process imports nothing heavy.
"""

from collections import Counter


class Attempts:
    """Counts the attempts at pieces of work, each known by a number."""

    def __init__(self, allowed: int) -> None:
        """Allow so many attempts at a piece."""
        self._allowed = allowed
        self._begun = Counter[int]()

    def begin(self, piece: int) -> bool:
        """Count an attempt; return whether it is still allowed."""
        self._begun[piece] += 1
        return self._begun[piece] <= self._allowed
