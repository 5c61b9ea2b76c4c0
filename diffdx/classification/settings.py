"""How a dataset is classified: the options of `diffdx classify`, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffdx._device import PrecisionOption
from diffdx._typing import Space
from diffdx.classification.bank import Sampling, TrialBank
from diffdx.classification.denoising_errors import BatchSizeOption
from diffdx.classification.predictions import Rule
from diffdx.classification.voting import Ties
from diffdx.data.dataset import Record
from diffdx.errors import ConfigError


@dataclass(frozen=True)
class ClassifySettings:
    """How a dataset is classified; the options of `diffdx classify`.

    Attributes:
        num_trials: Trials per image, the first of the bank.
        bank_size: Trials in the bank.
        sampling: Times on a stratified grid, or `iid` as in the paper.
        rule: `vote`, or `mean` of the error.
        space: Space of the mean errors.
        ties: How a tied trial's vote is counted.
        seed: Seed of the bank.
        batch_size: Network rows per call, or `auto`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        precision: `auto`, `fp32`, `bf16`, `fp16`.
        deterministic: The same bytes whatever the batch size, the order and the shards.
        shard: (I, N) takes every N-th image from the I-th on, I from 1; None takes all.
        overwrite: Forget an earlier run in the folder instead of continuing it.
        strict: Stop at the first image that cannot be read or judged.
    """

    num_trials: int = 501
    bank_size: int = 501
    sampling: Sampling = "stratified"
    rule: Rule = "vote"
    space: Space = "v"
    ties: Ties = "split"
    seed: int = 0
    batch_size: BatchSizeOption = "auto"
    device: str = "auto"
    precision: PrecisionOption = "auto"
    deterministic: bool = False
    shard: tuple[int, int] | None = None
    overwrite: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        self.bank.require(self.num_trials)
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"--shard {self.shard[0]}/{self.shard[1]}: use I/N with 1 <= I <= N")

    @property
    def bank(self) -> TrialBank:
        """The trial bank that these settings mean."""
        return TrialBank(self.seed, self.bank_size, self.sampling)

    def records_of_shard(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that this shard classifies."""
        first, step = self.shard or (1, 1)
        return list(records[first - 1 :: step])
