"""Output folders: never written over by accident."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from diffdx.errors import ConfigError


def require_room(
    out: Path, *, overwrite: bool, or_else: str = "", inputs: Sequence[str | Path] = ()
) -> None:
    """Check that `out` is empty, or empty it if that was asked for.

    Args:
        out: Output folder.
        overwrite: Replace what is there.
        or_else: What else the user may do, as in "add --resume to continue that run".
        inputs: What the command reads, which may not lie in a folder that it empties.

    Raises:
        ConfigError: if something is there and may not be replaced, so that nothing is lost,
            or if emptying the folder would delete an input.
    """
    if not (out.exists() and (out.is_file() or any(out.iterdir()))):
        return
    if not overwrite:
        choices = [or_else] if or_else else []
        choices += ["add --overwrite to replace it", "choose another --out"]
        raise ConfigError(f"{out} is not empty; {', or '.join(choices)}")
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"{out} holds the input {path}; choose another --out")
    if out.is_file():
        out.unlink()
    else:
        shutil.rmtree(out)
