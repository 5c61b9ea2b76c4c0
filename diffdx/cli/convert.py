"""`diffdx convert`: pickled weights as safetensors, without running what a pickle may hide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffdx.cli import options
from diffdx.cli.console import Reporter
from diffdx.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def convert(
    file: Annotated[Path, typer.Argument(help="Weights saved by torch.save: .bin, .pt, .ckpt.")],
    out: Annotated[Path | None, typer.Argument(help="File to write; default FILE.safetensors")] = (
        None
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Rewrite a pickled state dictionary as safetensors. Only tensors are read, no code is run."""
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        from safetensors.torch import save_file

        target = out or file.with_suffix(".safetensors")
        if target.exists() and not overwrite:
            raise ConfigError(f"{target} is there already; add --overwrite to replace it")
        tensors = read_pickled(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target)
        count = sum(tensor.numel() for tensor in tensors.values())
        reporter.result(
            f"{len(tensors)} tensors, {count:,} numbers\n{target}",
            {"out": str(target), "tensors": len(tensors), "numbers": count},
        )


def read_pickled(file: Path) -> "dict[str, Tensor]":
    """Return the state dictionary of a file written by `torch.save`.

    A dictionary inside `state_dict` is taken out; what is no tensor is left out.

    Raises:
        CheckpointError: if the file is damaged, holds anything but plain data and tensors, whose
            loading could run code, or no tensors at all.
    """
    import torch

    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file} cannot be read as plain weights ({reason}); nothing in it was run. Ask its "
            "author for a safetensors file"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    items = content.items() if isinstance(content, dict) else ()
    # Tensors that share their storage may not do so in a safetensors file.
    tensors = {
        str(name): value.detach().clone().contiguous()
        for name, value in items
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors by name; give a state dictionary")
    return tensors
