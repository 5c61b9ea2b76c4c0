"""Nested settings from several sources, one over the other."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from diffdx.errors import ConfigError


def overridden(
    start: dict[str, Any],
    file: Path | None,
    assignments: tuple[str, ...],
    options: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return a copy of `start` overridden by what the user gave, later ones winning.

    Args:
        start: Sections of values.
        file: YAML with the same sections.
        assignments: Texts like `train.batch_size=64`; values are read as YAML.
        options: Dotted names and values; None means not given.

    Raises:
        ConfigError: if the file or a text cannot be read.
    """
    values = deepcopy(start)
    if file is not None:
        merge(values, _read_yaml(file))
    for name, value in _parsed(assignments).items():
        assign(values, name, value)
    for name, value in (options or {}).items():
        if value is not None:
            assign(values, name, value)
    return values


def merge(base: dict[str, Any], update: dict[str, Any]) -> None:
    """Put `update` over `base`, section by section; what it does not name stays."""
    for key, value in update.items():
        before = base.get(key)
        # Another backbone or schedule has sizes of other names.
        if isinstance(value, dict) and isinstance(before, dict) and not _renamed(before, value):
            merge(before, value)
        else:
            base[key] = deepcopy(value)


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value by its dotted name, as in train.batch_size, making the sections on its way."""
    *sections, key = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"unknown configuration key '{dotted}'")
    values[key] = value


def _renamed(before: dict[str, Any], update: dict[str, Any]) -> bool:
    return "name" in update and update["name"] != before.get("name", "unet")


def _parsed(assignments: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs name=value, got '{text}'")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: '{value}' is no YAML value; quote it") from None
    return values


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {file} must be a mapping of sections")
    return values
