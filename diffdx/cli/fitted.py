"""What a decision rule needs of the run's calibration: weights, and the bound of a stop."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffdx.errors import ConfigError

if TYPE_CHECKING:
    from diffdx.classification.weighted import LogSNRWeights


def fitted_parts(
    folder: Path, *, rule: str, space: str, stop: str, trials: int
) -> "tuple[float | None, LogSNRWeights | None]":
    """Return the bound and the weights that this rule needs; None where it needs none.

    Args:
        folder: A run or a predictions folder with `calibration.json`.
        rule: `vote`, `mean` or `weighted`.
        space: Space of the mean errors.
        stop: As after `--stop`.
        trials: Trials of the full run; a calibration of another number does not fit.

    Raises:
        ConfigError: if what is needed was not fitted.
    """
    if rule == "vote" or (rule == "mean" and stop == "none"):
        return None, None
    from diffdx.classification.rules import rule_name
    from diffdx.uncertainty.calibration import read_calibration

    stored = read_calibration(folder)
    full_run = {"stop": "none", "rule": rule, "space": space, "trials": trials}
    entry = None if stored is None else stored.find(full_run)
    if entry is None:
        raise ConfigError(
            f"--rule {rule} --stop {stop}: {folder} is not calibrated for {trials} trials; run "
            f"`diffdx calibrate RUN DATA --trials {trials}` first, or use --rule vote"
        )
    bound = entry.difference_bounds[rule_name(rule, space)]
    return bound, entry.probability.weights if rule == "weighted" else None
