"""Device and precision: what `auto` means, and what is refused."""

import pytest
import torch

from diffdx import _device
from diffdx._device import (
    autocast,
    bf16_is_fast_on_cpu,
    is_out_of_memory,
    resolve_device,
    resolve_precision,
)
from diffdx.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for present, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert resolve_device("auto").type == kind


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_here_is_refused(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    with pytest.raises(ConfigError, match=f"--device {name}"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "name", "fast"),
    [
        (True, True, "Intel(R) Xeon(R)", True),
        (False, True, "Intel(R) Xeon(R)", False),
        (False, True, "AMD EPYC", True),
        (False, False, "AMD EPYC", False),
    ],
)
def test_bf16_is_fast_with_amx_and_on_amds_avx512(monkeypatch, amx, avx512_bf16, name, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(_device, "cpu_name", lambda: name)
    assert bf16_is_fast_on_cpu() == fast


def test_auto_precision_is_bf16_only_where_it_is_fast(monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(_device, "bf16_is_fast_on_cpu", lambda native=native: native)
        assert resolve_precision("auto", CPU) == ("bf16" if native else "fp32")
    for capability, expected in (((8, 0), "bf16"), ((7, 5), "fp32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert resolve_precision("auto", CUDA) == expected
    assert resolve_precision("fp32", CPU) == "fp32"
    with pytest.raises(ConfigError, match="fp16"):
        resolve_precision("fp16", CPU)


def test_autocast_lowers_products_only_when_asked():
    a = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (a @ a).dtype == dtype


def test_only_memory_errors_count_as_out_of_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
