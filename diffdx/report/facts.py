"""What a report says, gathered once: each run's result files, its model's record, comparison.

Nothing is computed here and no number is written down: page and model card quote these files, each
by its place in them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdx._files import sha256
from diffdx.data.audit import read_audit
from diffdx.errors import ConfigError, DataError
from diffdx.evaluation import StoredPredictions, read_predictions
from diffdx.evaluation.comparison import COMPARISON_FILE
from diffdx.evaluation.subgroups import SUBGROUPS_FILE
from diffdx.transforms.pixels import PixelSpec

Json = dict[str, Any]

SUMMARY_FILE = "summary.json"
_QUOTED = ("kind", "calibration", "audit", "by_rule", "nfe", "warnings", "model_sha256")
"""Entries without which a summary is an earlier version's."""
_HASHED = ("predictions.parquet", "errors.parquet", "calibration.json", SUMMARY_FILE)


@dataclass(frozen=True)
class ModelFacts:
    """What a run folder says of its model."""

    folder: Path
    record: Json
    """`run.json`: data, versions, length of the training."""
    weights: Json
    """`model.json` of the checkpoint that is used."""
    audit: Json | None
    """`audit.json`, if the data was audited."""

    @property
    def sha256(self) -> str:
        """Hash of the weights, which predictions name."""
        return str(self.weights["sha256"])

    @property
    def pixels(self) -> PixelSpec:
        """How an image becomes what the network sees."""
        data = self.weights["model"]["data"]
        return PixelSpec(data["image_size"], data["channels"], data["resize"])


@dataclass(frozen=True)
class RunFacts:
    """One evaluated predictions folder."""

    name: str
    """Its folder's name, or the whole path where two have the same."""
    summary: Json
    stored: StoredPredictions
    hashes: dict[str, str]
    """SHA-256 of its result files."""
    subgroups: Json | None
    model: ModelFacts | None


@dataclass(frozen=True)
class Facts:
    """Everything one report is about."""

    runs: list[RunFacts]
    comparison: Json | None


def gather_facts(folders: Sequence[Path], models: Sequence[Path] = ()) -> Facts:
    """Return what these folders hold.

    Args:
        folders: Evaluated predictions folders, and at most one that only holds a comparison, as
            `diffdx evaluate A B --out` writes it.
        models: Run folders, each of which made some of the predictions.

    Raises:
        DataError: if a folder was not evaluated, a file is missing or contradicts another.
        ConfigError: if a run folder made none of the predictions, or two folders hold comparisons.
    """
    apart = [f for f in folders if not _is_predictions(f) and (f / COMPARISON_FILE).is_file()]
    evaluated = [folder for folder in folders if folder not in apart]
    if len(apart) > 1:
        raise ConfigError(
            f"{apart[0]} and {apart[1]} both hold a comparison; a page shows one: leave one out"
        )
    known = {model.sha256: model for model in map(read_model, models)}
    runs = [_read_run(f, name, known) for f, name in zip(evaluated, _names(evaluated), strict=True)]
    used = {run.summary["model_sha256"] for run in runs}
    for model in known.values():
        if model.sha256 not in used:
            raise ConfigError(
                f"--run {model.folder}: its weights ({model.sha256[:12]}) made none of these "
                "predictions; leave it out, or name the folders that it classified"
            )
    return Facts(runs, _read_comparison([*apart, *evaluated[:1]]))


def read_model(folder: Path) -> ModelFacts:
    """Return what a run folder says of its model.

    Raises:
        DataError: if a file is missing or no JSON.
    """
    return ModelFacts(
        folder,
        _read_json(folder / "run.json", "name a run folder"),
        _read_json(folder / "checkpoints" / "best" / "model.json", "name a run folder"),
        read_audit(folder),
    )


def _read_run(folder: Path, name: str, models: dict[str, ModelFacts]) -> RunFacts:
    stored = read_predictions(folder)
    summary = _read_json(folder / SUMMARY_FILE, f"run `diffdx evaluate {folder}` first")
    missing = [name for name in _QUOTED if name not in summary]
    if missing:
        raise DataError(
            f"{folder / SUMMARY_FILE}: no {', '.join(missing)}; an earlier version wrote it: run "
            f"`diffdx evaluate {folder}` again"
        )
    groups = folder / SUBGROUPS_FILE
    return RunFacts(
        name=name,
        summary=summary,
        stored=stored,
        hashes={f: sha256(folder / f) for f in _HASHED if (folder / f).is_file()},
        subgroups=_read_json(groups, "remove it") if groups.is_file() else None,
        model=models.get(str(summary["model_sha256"])),
    )


def _read_comparison(folders: Sequence[Path]) -> Json | None:
    files = (folder / COMPARISON_FILE for folder in folders)
    found = next((file for file in files if file.is_file()), None)
    return None if found is None else _read_json(found, "run `diffdx evaluate` again")


def _is_predictions(folder: Path) -> bool:
    return (folder / SUMMARY_FILE).is_file() or (folder / "predictions.parquet").is_file()


def _names(folders: Sequence[Path]) -> list[str]:
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _read_json(path: Path, advice: str) -> Json:
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {advice}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); {advice}") from error
    return content
