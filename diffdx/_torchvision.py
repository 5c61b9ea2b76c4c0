"""Makes a torchvision built for another torch usable; call it before any library that loads it.

A torchvision whose compiled part does not fit the installed torch (often a GPU build beside a CPU
torch) fails to import with `operator torchvision::nms does not exist`, and takes diffusers, timm
and peft down with it. Its Python part (networks, transforms) needs no compiled operator: two
schemas declared in the place of the missing ones let it load.
"""

import importlib
import sys
import warnings
from importlib.util import find_spec

_MISSING = ("nms", "qnms")
_libraries: list[object] = []
"""Held for the life of the process: a library that is collected takes its operators along."""


def mend_torchvision() -> None:
    """Import torchvision if it is installed, declaring the operators that it lacks; warn once."""
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        importlib.import_module("torchvision")
        warnings.warn(
            "torchvision was built for another torch: its compiled operators (nms) are not "
            "available, which diffdx does not need; install the matching pair to be rid of this",
            stacklevel=2,
        )


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _MISSING:
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
