"""Whether a run that is resumed is the run that was started."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from diffdx.baseline_config import BaselineConfig
from diffdx.config import RunConfig, validate_config
from diffdx.data.splits import load_splits
from diffdx.errors import CheckpointError, ConfigError, DataError

IDENTITY = ("classes", "data_fingerprint")
"""Entries of run.json that a resumed run must share."""
MACHINE = ("world_size", "device", "precision", "threads")
"""Entries that may differ; the weights are then not those of an uninterrupted run, bit by bit."""


def check_same_run(
    out: Path,
    config: RunConfig | BaselineConfig,
    splits: pd.DataFrame,
    record: dict[str, Any],
    *,
    force: bool,
) -> None:
    """Refuse to resume a run with another configuration, class list, data or splits.

    Args:
        out: The run folder.
        config: What is asked for now.
        splits: The splits asked for now.
        record: What run.json would say of it.
        force: Allow differences.

    Raises:
        CheckpointError: if the folder holds no run of this kind.
        ConfigError: naming each difference, since the run would be neither the one nor the other.
    """
    try:
        before = json.loads((out / "run.json").read_text(encoding="utf-8"))
        old_config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        # A run of an earlier version lacks what is new: there its default was meant.
        old_run = validate_config(type(config), old_config, source=str(out / "config.yaml"))
        old = _flat(old_run.model_dump(mode="json")) | {name: before[name] for name in IDENTITY}
        old["splits"] = _roles_hash(load_splits(out / "splits.csv"))
    except (OSError, ValueError, KeyError, yaml.YAMLError, DataError, ConfigError):
        raise CheckpointError(f"{out} holds no run to resume; start it without --resume") from None
    new = _flat(config.model_dump(mode="json")) | {name: record[name] for name in IDENTITY}
    new["splits"] = _roles_hash(splits)
    changes = [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changes and not force:
        raise ConfigError(
            f"{out} was started with other settings ({'; '.join(changes)}); repeat the original "
            "command with --resume, or add --force to go on with the new ones"
        )


def resumption(out: Path, record: dict[str, Any], step: int) -> dict[str, Any]:
    """Return what run.json says of a run that goes on at this step, on this machine.

    Args:
        out: The run folder.
        record: What run.json would say of it.
        step: Where it goes on.
    """
    before = json.loads((out / "run.json").read_text(encoding="utf-8"))
    changes = [
        f"{name} {before.get(name)} -> {record[name]}"
        for name in MACHINE
        if before.get(name) != record[name]
    ]
    old, new = (of.get("versions", {}).get("torch") for of in (before, record))
    changes += [f"torch {old} -> {new}"] if old != new else []
    notes = before.get("not_bit_exact", [])
    return {
        "resumed_at_steps": [*before.get("resumed_at_steps", []), step],
        "not_bit_exact": [*notes, f"from step {step}: {', '.join(changes)}"] if changes else notes,
    }


def _roles_hash(splits: pd.DataFrame) -> str:
    roles = sorted(zip(splits.image_id, splits.role, strict=True))
    return hashlib.sha256(repr(roles).encode()).hexdigest()[:12]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
