"""The processes that train one model together, as `torchrun` starts them; alone, one of rank 0.

Every process holds the whole model. A batch is drawn as by one process, each works on its share of
the rows, and the gradients of the shares are added up:

    grad = sum_r grad_r,   grad_r = sum over rows n of rank r of grad loss_n / batch size

So a run is the same on any number of processes but for the order of this sum. The sum is of one
vector in a fixed order: all ranks get the same bits, and a resumed run gets them again. It is made
after the backward pass and not within it, so that a rank may cut its share in parts of its own
where memory is short.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from diffdx.errors import ConfigError, TrainingError

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long a process waits for another that lives; one that ends is noticed at once."""


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, over gloo and on GPUs over NCCL; or do nothing.

    Args:
        device: Where to train; of several GPUs each process takes that of its local rank.

    Raises:
        ConfigError: if this machine has no GPU for the process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if str(device) != "cuda" or local >= count:
            raise ConfigError(
                f"--device {device}, process {local} of this machine, {count} GPUs: use --device "
                "cuda and torchrun --nproc_per_node with at most that many"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=PATIENCE)
    yield
    # Not after an error: the others may be waiting in a sum that never ends; torchrun ends them.
    dist.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Say whether this is the process that speaks and writes files."""
    return rank() == 0


def share(count: int) -> slice:
    """Return this process's part of `count` rows; parts differ by one row at most."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process pass the block before the others enter it."""
    if not is_main():
        _wait()
    yield
    if is_main():
        _wait()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes, the same bits in all of them."""
    if size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _together():
        dist.all_reduce(flat)
    totals = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, totals, strict=True):
        tensor.copy_(total.view_as(tensor))


def largest(*values: float) -> list[float]:
    """Return the largest of each value over the processes."""
    if size() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    with _together():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return [float(value) for value in found]


def gathered(items: list[T]) -> list[T]:
    """Return the items of all processes, rank by rank."""
    if size() == 1:
        return items
    parts: list[Any] = [None] * size()
    with _together():
        dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def copy_from_main(tensors: Sequence[Tensor]) -> None:
    """Overwrite each tensor with the main process's."""
    if size() == 1:
        return
    with _together():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def _wait() -> None:
    """Wait until all processes are here."""
    largest(0.0)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"rank {rank()} of {size()} lost the others ({str(error).splitlines()[0]}); the one "
            "that ended first says why. Start all of them again with --resume"
        ) from None
