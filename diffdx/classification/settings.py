"""How a dataset is classified: the options of `diffdx classify`, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffdx._device import PrecisionOption
from diffdx._typing import Space
from diffdx.classification.bank import Sampling, TrialBank
from diffdx.classification.denoising_errors import BatchSizeOption
from diffdx.classification.predictions import Rule
from diffdx.classification.rules import rule_name
from diffdx.classification.stopping import Elimination, stopping_rule
from diffdx.classification.voting import Ties
from diffdx.classification.weighted import LogSNRWeights, trial_costs
from diffdx.classification.work import Ending
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError


@dataclass(frozen=True)
class ClassifySettings:
    """How a dataset is classified; the options of `diffdx classify`.

    Attributes:
        num_trials: Trials per image, the first of the bank.
        bank_size: Trials in the bank.
        sampling: Times on a stratified grid, or `iid` as in the paper.
        rule: `vote`, `mean` of the error, or `weighted` by log-SNR.
        space: Space of the mean errors.
        ties: How a tied trial's vote is counted.
        stop: When an image stops: `none`, `exact`, an error probability, or `share:WIDTH`.
        bound: Where a stop of any rule but the vote clips differences (`diffdx calibrate`).
        weights: Of the weighted rule (`diffdx calibrate`).
        eliminate: Drop classes that have become hopeless.
        budget_seconds: Time of an image; None is unlimited.
        seed: Seed of the bank.
        batch_size: Network rows per call, or `auto`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        precision: `auto`, `fp32`, `bf16`, `fp16`.
        deterministic: The same bytes whatever the batch size, the order and the shards.
        shard: (I, N) takes every N-th image from the I-th on, I from 1; None takes all.
        overwrite: Forget an earlier run in the folder instead of continuing it.
        strict: Stop at the first image that cannot be read or judged.
        evidence: Keep maps of where the errors come from.
    """

    num_trials: int = 501
    bank_size: int = 501
    sampling: Sampling = "stratified"
    rule: Rule = "vote"
    space: Space = "v"
    ties: Ties = "split"
    stop: str = "none"
    bound: float | None = None
    weights: LogSNRWeights | None = None
    eliminate: bool = False
    budget_seconds: float | None = None
    seed: int = 0
    batch_size: BatchSizeOption = "auto"
    device: str = "auto"
    precision: PrecisionOption = "auto"
    deterministic: bool = False
    shard: tuple[int, int] | None = None
    overwrite: bool = False
    strict: bool = False
    evidence: bool = False

    def __post_init__(self) -> None:
        self.bank.require(self.num_trials)
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise ConfigError(f"--budget {self.budget_seconds}: use a positive number of seconds")
        if self.eliminate and self.stop not in ("none", "exact"):
            raise ConfigError(
                f"--eliminate with --stop {self.stop}: the votes for a dropped class go to others, "
                "so the rule's guarantee would not hold; use --stop none or exact"
            )
        if self.eliminate and self.evidence:
            raise ConfigError(
                "--evidence with --eliminate: a dropped class has no map of the same trials; "
                "leave out one of the two"
            )
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"--shard {self.shard[0]}/{self.shard[1]}: use I/N with 1 <= I <= N")

    @property
    def bank(self) -> TrialBank:
        """The trial bank that these settings mean."""
        return TrialBank(self.seed, self.bank_size, self.sampling)

    @property
    def decision(self) -> dict[str, Any]:
        """What decides an image, given its errors: entries of `classify.json`."""
        return {
            "rule": self.rule,
            "space": self.space,
            "trials": self.num_trials,
            "stop": self.stop,
            "bound": self.bound,
            "weights": None if self.weights is None else self.weights.as_dict(),
            "eliminate": self.eliminate,
            "budget_seconds": self.budget_seconds,
            "ties": self.ties,
        }

    @property
    def rule_name(self) -> str:
        """The rule by the name that it has in `diffdx.classification.rules`."""
        return rule_name(self.rule, self.space)

    @property
    def evidence_rule(self) -> str:
        """What evidence maps add up to: the weighted sum of the errors, or their mean in a space.

        The vote weighs nothing, and is shown by the mean.
        """
        return rule_name("mean" if self.rule == "vote" else self.rule, self.space)

    def ending(self, num_classes: int) -> Ending:
        """Return what may end an image early.

        Raises:
            ConfigError: if the stopping rule does not exist for this decision rule.
        """
        stop = stopping_rule(
            self.stop,
            rule=self.rule_name,
            num_classes=num_classes,
            num_trials=self.num_trials,
            ties=self.ties,
            bound=self.bound,
            costs=None if self.weights is None else trial_costs(self.weights),
        )
        elimination = None
        if self.eliminate:
            elimination = Elimination(num_classes, self.num_trials, ties=self.ties)
        return Ending(None if self.stop == "none" else stop, elimination, self.budget_seconds)

    def records_of_shard(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that this shard classifies."""
        first, step = self.shard or (1, 1)
        return list(records[first - 1 :: step])
