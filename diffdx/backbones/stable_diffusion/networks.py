"""diffusers' networks from a configuration, and their weights from a checkpoint's folder."""

import logging
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from diffdx.backbones.stable_diffusion.checkpoint import weights_file
from diffdx.errors import CheckpointError, ConfigError

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def build(kind: type[NetworkT], config: dict[str, Any]) -> NetworkT:
    """Return a network of diffusers with random weights.

    Raises:
        ConfigError: if its configuration is none that diffusers can build.
    """
    try:
        # diffusers' from_config takes a plain dictionary and leaves out what it does not know.
        network: NetworkT = kind.from_config(config)  # type: ignore[attr-defined]
        return network
    except Exception as error:  # whatever a wrong size leads to, deep inside
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{kind.__name__} cannot be built from its configuration ({reason})"
        ) from None


def read_state(kind: type[nn.Module], part: Path, *, most: int) -> dict[str, Tensor]:
    """Return the weights of a part of a checkpoint, under today's names, in float32.

    Args:
        kind: Class of the network.
        part: Folder with `config.json` and a safetensors file.
        most: Tensors that such a network has; a file with more is refused at once.

    Raises:
        CheckpointError: if the file is damaged, does not fit its configuration, or is not finite.
    """
    log = logging.getLogger("diffusers")
    before = log.level
    # It would list every name that does not fit; we name the first.
    log.setLevel(logging.ERROR)
    try:
        with safe_open(weights_file(part), "pt") as file:
            found = len(file.keys())
        if found > most:
            raise ValueError(f"{found} tensors in place of {most}")
        network, report = kind.from_pretrained(  # type: ignore[attr-defined]
            part,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # OSError, ValueError, RuntimeError, SafetensorError, ...
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{part}: weights cannot be read ({reason}); copy the checkpoint again"
        ) from None
    finally:
        log.setLevel(before)
    state: dict[str, Tensor] = network.state_dict()
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    wrong += [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise CheckpointError(
            f"{part}: {len(wrong)} tensors are missing, unknown or not finite, first "
            f"{', '.join(wrong[:3])}; copy the checkpoint again"
        )
    return state
