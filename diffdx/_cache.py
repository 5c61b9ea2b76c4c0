"""Where downloads and prepared images are kept: `DIFFDX_CACHE`, by default ~/.cache/diffdx."""

import os
from pathlib import Path

from diffdx.errors import ConfigError


def cache_folder(name: str) -> Path:
    """Return the folder of the cache with this name, made if need be and closed to other users.

    Raises:
        ConfigError: if it cannot be made, as on a read-only home.
    """
    chosen = os.environ.get("DIFFDX_CACHE")
    try:
        root = Path(chosen) if chosen else Path.home() / ".cache" / "diffdx"
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"the cache cannot be written ({reason}); set DIFFDX_CACHE to a folder that can"
        ) from None
    return folder
