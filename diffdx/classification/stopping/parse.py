"""`--stop none|exact|DELTA|share:WIDTH` made into a rule, or refused with what to write instead."""

from typing import cast

from diffdx._typing import Space
from diffdx.classification.stopping.interval import ShareStop
from diffdx.classification.stopping.means import Costs, MeanStop, space_costs
from diffdx.classification.stopping.rule import NoStop, StoppingRule
from diffdx.classification.stopping.votes import ExactStop, VoteStop
from diffdx.classification.voting import Ties
from diffdx.errors import ConfigError


def stopping_rule(
    text: str,
    *,
    rule: str,
    num_classes: int,
    num_trials: int,
    ties: Ties = "split",
    bound: float | None = None,
    costs: Costs | None = None,
) -> StoppingRule:
    """Return the stopping rule that `--stop` names.

    Args:
        text: `none`, `exact`, a probability of another decision in (0, 1), or `share:WIDTH`.
        rule: Decision rule: `vote`, `mean_v`, `mean_eps`, `mean_x` or `weighted`.
        num_classes: K >= 2.
        num_trials: N of the full run, >= 1.
        ties: How a tied trial's vote is counted; concerns the vote alone.
        bound: Where error differences are clipped (`difference_bound`); a probability needs it for
            any rule but the vote.
        costs: What a `weighted` rule adds up.

    Raises:
        ConfigError: if the text means no rule, or none that goes with the decision rule, the
            classes or the trials.
    """
    if num_classes < 2:
        raise ConfigError(
            f"a model of {num_classes} class cannot be decided between: classify with a model of "
            "at least two classes"
        )
    if num_trials < 1:
        raise ConfigError(f"--trials {num_trials}: use at least one trial")
    if text == "none":
        return NoStop(num_trials)
    kind, _, width = text.partition(":")
    if (kind == "share" and width) or text == "exact":
        _require_vote(text, rule)
        if text == "exact":
            return ExactStop(num_trials, ties)
        return ShareStop(_number(width, text), num_classes, num_trials, ties)
    delta = _number(text, text)
    if rule == "vote":
        return VoteStop(delta, num_classes, num_trials, ties)
    if rule.startswith("mean_"):
        costs = space_costs(cast(Space, rule.removeprefix("mean_")))
    if costs is None or bound is None:
        raise ConfigError(
            f"--stop {text} --rule {rule}: stopping this rule needs the size of error differences "
            "on calibration images; run `diffdx calibrate` first, or use --rule vote"
        )
    return MeanStop(delta, num_classes, num_trials, costs, bound)


def _require_vote(text: str, rule: str) -> None:
    if rule != "vote":
        raise ConfigError(
            f"--stop {text} --rule {rule}: only votes are whole numbers that the remaining trials "
            "can change by one at most; use --rule vote, or --stop none or a probability"
        )


def _number(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ConfigError(
            f"--stop {text}: use none, exact, a probability such as 0.01, or share:WIDTH such as "
            "share:0.1"
        ) from None
