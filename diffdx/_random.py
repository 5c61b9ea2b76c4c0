"""Random numbers that are a function of what they are for, not of when they are drawn.

A counter-based generator (Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011) maps (key, counter) to 128 random bits without any state, so the noise of one image and
trial is the same whatever the batch, the order, the number of workers or the device, and no global
generator is read or moved.

    key = first 64 bits of SHA-256(seed, content)
    counter = (block, trial, stream, 0), 32 bits each

Written in int64 tensor arithmetic, whose products wrap modulo 2^64 on every device, the integers
are equal bit by bit on CPU and GPU. Normals come from them by Box-Muller in float32 and agree to
about 1e-6 (log, cos, sin differ in the last place).
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = 0xFFFFFFFF

# Streams keep the uses of one key apart.
NOISE, ORDER, UNIFORM, EDIT, RETURN = range(5)


def content_key(x: Tensor, seed: int) -> int:
    """Return the 64-bit key of an image: SHA-256 of seed, shape and float32 values, signed.

    Equal pixels have equal keys, so copies of an image get the same noise and the same result.

    Args:
        x: One preprocessed image (C, H, W).
        seed: Seed of the trial bank.
    """
    values = x.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
    head = f"{seed}|{'x'.join(map(str, x.shape))}|".encode()
    return _key_of(head + values.tobytes())


def purpose_key(seed: int, purpose: str) -> int:
    """Return the 64-bit key of one use of a seed ("label dropout", ...), unrelated to others."""
    return _key_of(f"{seed}|{purpose}".encode())


def _key_of(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Return four tensors of 32-bit random words (as int64): Philox4x32 with 10 rounds.

    Args:
        counter: Four int64 tensors of values below 2^32, of one shape; they are left as they are.
        key: Two int64 tensors of values below 2^32 that broadcast to that shape.
    """
    words = [word.clone() for word in counter]
    spare = [torch.empty_like(words[0]), torch.empty_like(words[0])]
    for step in range(10):
        c0, c1, c2, c3 = words
        k0, k1 = (
            (k + step * weyl).bitwise_and_(_LOW_32) for k, weyl in zip(key, _WEYL, strict=True)
        )
        # The low half of a product is kept with its high bits on: they only meet xors before the
        # next mask.
        torch.mul(c0, _MULTIPLIERS[0], out=spare[0])
        torch.mul(c2, _MULTIPLIERS[1], out=spare[1])
        new0 = (
            torch.bitwise_right_shift(spare[1], 32, out=c0)
            .bitwise_xor_(c1)
            .bitwise_xor_(k0)
            .bitwise_and_(_LOW_32)
        )
        new2 = (
            torch.bitwise_right_shift(spare[0], 32, out=c2)
            .bitwise_xor_(c3)
            .bitwise_xor_(k1)
            .bitwise_and_(_LOW_32)
        )
        words, spare = [new0, spare[1], new2, spare[0]], [c1, c3]
    words[1].bitwise_and_(_LOW_32)
    words[3].bitwise_and_(_LOW_32)
    return words


def philox_words(
    key: Tensor, trial: Tensor, stream: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return `count` 32-bit words for each (key, trial), (B, count) int64 in [0, 2^32).

    The first n of `count` words are no prefix of a longer request: the words of a block lie a
    quarter apart.

    Args:
        key: 64-bit keys as int64, (B,).
        trial: Trial numbers in [0, 2^32), (B,).
        stream: Which use of the key this is.
        count: Words wanted from each.
        device: Where to compute; the words do not depend on it.
    """
    blocks = -(-count // 4)
    key, trial = key.to(device).view(-1, 1), trial.to(device).view(-1, 1)
    block = torch.arange(blocks, device=device).expand(len(key), blocks)
    counter = [
        block,
        trial.expand_as(block),
        torch.full_like(block, stream),
        torch.zeros_like(block),
    ]
    halves = [key & _LOW_32, (key >> 32) & _LOW_32]
    return torch.cat(philox(counter, halves), dim=1)[:, :count]


def philox_uniform(
    key: Tensor,
    trial: Tensor,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    stream: int = UNIFORM,
) -> Tensor:
    """Return float32 values uniform on [0, 1) for each (key, trial), (B, *shape), of 24 bits."""
    words = philox_words(key, trial, stream, math.prod(shape), device)
    return ((words >> 8).to(torch.float32) * 2.0**-24).view(len(words), *shape)


def philox_normal(
    key: Tensor,
    trial: Tensor,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    stream: int = NOISE,
) -> Tensor:
    """Return float32 standard normals for each (key, trial), (B, *shape).

    Box-Muller: sqrt(-2 log u) (cos, sin)(2 pi w) with u in (0, 1], so that the logarithm is finite,
    and w in [-1/2, 1/2).

    Args:
        key: 64-bit keys as int64, (B,).
        trial: Trial numbers in [0, 2^32), (B,).
        shape: Shape of one draw, (C, H, W) for an image.
        device: Where to compute.
        stream: Which use of the key this is.
    """
    count = math.prod(shape)
    half = -(-count // 2)
    words = philox_words(key, trial, stream, 2 * half, device)
    radius = words[:, :half].to(torch.float32).add_(1.0).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = words[:, half:].to(torch.float32).mul_(2.0**-32).sub_(0.5).mul_(2 * math.pi)
    normal = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
    return normal[:, :count].reshape(len(words), *shape)


def philox_order(key: Tensor, n: int, stream: int = ORDER) -> Tensor:
    """Return for each key a uniformly random permutation of 0..n-1, (B, n) int64 on the CPU."""
    words = philox_words(key, torch.zeros_like(key), stream, 2 * n)
    # 63 bits make equal sort keys a matter of 1 in 10^13; `stable` settles even those alike
    # everywhere.
    return torch.argsort((words[:, :n] << 31) | (words[:, n:] >> 1), dim=1, stable=True)


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return the order an epoch visits n examples in, (n,) int64: a function of these alone."""
    return philox_order(torch.tensor([purpose_key(seed, f"order of epoch {epoch}")]), n)[0]
