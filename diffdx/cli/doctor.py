"""`diffdx doctor`: is this installation sound, and what can it use?"""

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter

LIBRARIES = (
    "diffdx",
    "torch",
    "diffusers",
    "ema-pytorch",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "scikit-learn",
    "pydantic",
)
CODECS = ("jpg", "zlib", "libtiff")
"""Pillow features behind JPEG, PNG and TIFF."""


def doctor(as_json: options.Json = False) -> None:
    """Check versions, devices, the torch/torchvision pair and image codecs; exit 1 if broken."""
    reporter = Reporter(as_json=as_json)
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: partial(_version, name) for name in LIBRARIES},
        "torch works": _torch_works,
        "torchvision": _torchvision,
        "devices": _devices,
        "bf16 on this CPU": _bf16,
        **{f"codec {name}": partial(_codec, name) for name in CODECS},
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, check in checks.items():
        try:
            rows[name] = {"ok": True, "detail": check()}
        except Exception as error:  # a broken library may raise anything at all
            rows[name] = {"ok": False, "detail": f"{type(error).__name__}: {error}".splitlines()[0]}
    lines = [f"{'ok  ' if r['ok'] else 'FAIL'} {n}: {r['detail']}" for n, r in rows.items()]
    broken = [name for name, row in rows.items() if not row["ok"]]
    lines.append(f"broken: {', '.join(broken)}" if broken else "this installation is sound")
    reporter.result("\n".join(lines), {"ok": not broken, "checks": rows})
    if broken:
        raise typer.Exit(1)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _torch_works() -> str:
    import torch

    value = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item()
    if value != 9:
        raise RuntimeError(f"a 3 x 3 convolution of ones gave {value}, not 9; reinstall torch")
    return f"{torch.get_num_threads()} threads"


def _torchvision() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return "not installed (not needed)"
    import torchvision  # noqa: F401  a mismatched pair fails here: operator nms does not exist

    return installed


def _devices() -> str:
    import torch

    found = ["cpu"]
    found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(found)


def _bf16() -> str:
    from diffdx._device import bf16_is_fast_on_cpu

    return "fast" if bf16_is_fast_on_cpu() else "slow: fp32 is used"


def _codec(name: str) -> str:
    from PIL import features

    if not features.check(name):
        raise RuntimeError(f"Pillow was built without {name}; reinstall Pillow")
    return features.version(name) or "present"
