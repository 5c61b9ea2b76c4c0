"""How long a run lasts, and the learning rate along it.

    lr(step) = lr_max min(1, (step + 1) / warmup) (1 + cos(pi f)) / 2,  f = budget spent, 0..1

With a budget of steps or images f is a function of the step, so a resumed run is bit-equal to an
uninterrupted one; with a budget of minutes f is that of the time, and the run is not reproducible.
"""

import math
from dataclasses import dataclass

from diffdx.config import LoopConfig
from diffdx.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """Length of a run: a number of steps, or a time.

    Attributes:
        steps: Optimiser steps, or None.
        seconds: Training time, or None.
    """

    steps: int | None
    seconds: float | None

    @staticmethod
    def of(config: LoopConfig) -> "Budget":
        """Return the budget of a configuration.

        Raises:
            ConfigError: unless exactly one of steps, images_seen and minutes is given.
        """
        given = {
            name: getattr(config, name)
            for name in ("steps", "images_seen", "minutes")
            if getattr(config, name) is not None
        }
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ConfigError(
                f"give exactly one of --steps, --images-seen and --minutes; found {found}"
            )
        if config.images_seen is not None:
            return Budget(max(1, config.images_seen // config.batch_size), None)
        return Budget(config.steps, None if config.minutes is None else 60 * config.minutes)

    def fraction(self, step: int, seconds: float) -> float:
        """Return the share of the budget that `step` steps and `seconds` have used, in [0, 1]."""
        if self.steps == 0:
            return 1.0
        used = step / self.steps if self.steps is not None else seconds / (self.seconds or math.inf)
        return min(1.0, used)


def learning_rate(config: LoopConfig, step: int, fraction: float) -> float:
    """Return the learning rate of step `step` (from 0) at this fraction of the budget."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = (
        0.5 * (1 + math.cos(math.pi * fraction)) if config.learning_rate_decay == "cosine" else 1
    )
    return config.learning_rate * warmup * decay
