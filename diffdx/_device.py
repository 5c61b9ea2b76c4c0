"""Which device and which precision a run uses, resolved once from what the user asked for."""

import ctypes
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

from diffdx.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]

# M_MMAP_THRESHOLD: 1 GiB; M_TRIM_THRESHOLD: never; M_MMAP_MAX: none.
_MALLOPT = {-3: 2**30, -1: 2**31 - 1, -4: 0}

AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device meant by `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; auto takes the fastest.

    Raises:
        ConfigError: if the name is unknown or this machine has no such device, since falling back
            in silence would cost hours.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(
            f"--device {name} cannot be used here: use auto, cpu, cuda, cuda:N or mps; "
            "'diffdx doctor' lists what torch sees"
        ) from None
    return device


def resolve_precision(option: PrecisionOption, device: torch.device) -> Precision:
    """Return the precision of network calls; `auto` is bf16 where that is the faster one.

    On a GPU that is from compute capability 8.0 on, where it is not emulated.

    Raises:
        ConfigError: for fp16 on a CPU, where convolutions overflow and run slowly.
    """
    if option == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if option != "auto":
        return option
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and bf16_is_fast_on_cpu() else "fp32"


def bf16_is_fast_on_cpu() -> bool:
    """Say whether this CPU multiplies faster in bf16 than in fp32.

    It does with AMX, and by AVX512-BF16 on AMD's processors. On Intel's without AMX it is slower
    (measured: `benchmarks/README.md`, "The engine").
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and "Intel" not in cpu_name()


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default each large tensor is fetched from the system and given back, page by page, in every
    layer of every call, which costs a small network on two threads a fifth of its time. It is for
    commands: the process stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which network calls run; arithmetic on errors stays outside it."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPE[precision])


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether this is a device or the host running out of memory, not another fault."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )
