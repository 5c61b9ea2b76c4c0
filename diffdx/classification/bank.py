"""The bank of trials: which times and which noises an image is judged by.

A bank is (seed, image content, size). Trial n of an image has the time t_n and the noise eps_n:

    stratified   t_n = (pi(n) + u_n) / size
    iid          t_n = u_n                         (paper, appendix A)
    eps_n ~ N(0, I)

with u_n ~ U[0, 1) and pi a uniformly random permutation of the grid's cells.

pi, u and eps come from the counter-based generator under the image's content key, so they depend on
nothing but the seed, the pixels and the bank: not on the batch, the order, the sharding or the
device. A run of n trials is the first n entries of the bank, in the same random order, which is
what lets it be compared with the full bank (spec section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdx._random import content_key, philox_normal, philox_order, philox_uniform
from diffdx.errors import ConfigError

Sampling = Literal["stratified", "iid"]
Keys = Int[Tensor, "B"]


@dataclass(frozen=True)
class TrialBank:
    """Times and noises of up to `size` trials for every image.

    Attributes:
        seed: Another seed is another, independent bank.
        size: Number of trials in the bank, and of cells of the stratified time grid.
        sampling: `stratified`, or `iid` as in the paper.
    """

    seed: int = 0
    size: int = 501
    sampling: Sampling = "stratified"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"--bank {self.size}: a bank needs at least one trial")

    def require(self, num_trials: int) -> None:
        """Check that the bank holds `num_trials` trials.

        Raises:
            ConfigError: if it does not, since a longer run would belong to another bank.
        """
        if not 1 <= num_trials <= self.size:
            raise ConfigError(
                f"--trials {num_trials} does not fit a bank of {self.size}: "
                f"use 1 to {self.size} trials or raise --bank"
            )

    def key(self, x: Float[Tensor, "C H W"]) -> int:
        """Return the key of a preprocessed image: a hash of the bank's seed and its content."""
        return content_key(x, self.seed)

    def times(self, keys: Keys) -> Float[Tensor, "B N"]:
        """Return t in [0, 1) of every trial of the bank, in trial order, float32 on the CPU.

        Args:
            keys: Content keys of the images.
        """
        u = philox_uniform(keys, torch.zeros_like(keys), (self.size,)).double()
        if self.sampling == "stratified":
            u = (philox_order(keys, self.size) + u) / self.size
        # The last cell's end may round up to 1, where the schedule is defined as well.
        return u.float()

    def noise(
        self, keys: Keys, trials: Int[Tensor, "B"], shape: Sequence[int], device: torch.device | str
    ) -> Float[Tensor, "B C H W"]:
        """Return eps of one trial for each key, float32 on the device.

        Args:
            keys: Content keys of the images.
            trials: Trial numbers, one for each key.
            shape: (C, H, W) of the network's coordinates.
            device: Where to draw; normals agree between devices to 1e-6.
        """
        return philox_normal(keys, trials, shape, device)
