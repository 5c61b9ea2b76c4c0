"""Classify a dataset into a predictions folder: read, evaluate, store, decide, write.

The folder gets `errors.parquet` (every denoising error), `predictions.parquet` and `.csv` (a row
per image), `classify.json` (what was done, with what, in which time), and `evidence.zarr` if maps
are wanted. An image that cannot be read or judged becomes a row with status `error`, and the others
go on. An interrupted run keeps its finished images and continues when it is started again. Research
use only, not a medical device.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from diffdx._files import exclusive
from diffdx._interrupt import stop_requests
from diffdx._notice import NOTICE
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.conclusion import conclude
from diffdx.classification.engine import Engine, LocalEngine
from diffdx.classification.evidence import ErrorMaps, EvidenceCollector, map_sides, part_edges
from diffdx.classification.evidence_store import EvidenceStore
from diffdx.classification.predictions import CLASSIFY_FILE
from diffdx.classification.reading import inputs_hash, reason
from diffdx.classification.settings import ClassifySettings as ClassifySettings
from diffdx.classification.store import ErrorStore
from diffdx.data.dataset import Dataset, Record

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassifyResult:
    """What a run left behind.

    Attributes:
        folder: The predictions folder.
        table: Its prediction table; None if nothing is concluded.
        n_failed: Images with status `error`.
        n_waiting: Images that other shards have yet to classify; if any, nothing is concluded.
        info: The content of `classify.json`; empty if nothing is concluded.
    """

    folder: Path
    table: pd.DataFrame | None
    n_failed: int
    n_waiting: int
    info: dict[str, Any]


def classify_dataset(
    model: DiffusionModel,
    dataset: Dataset,
    folder: Path,
    settings: ClassifySettings,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> ClassifyResult:
    """Classify every image of a dataset, write the predictions folder and return its table.

    Shards of one dataset share one folder: each adds its images, and the one that finds all of them
    finished writes the tables.

    Args:
        model: The local engine moves it to the device of the settings.
        dataset: Where images and labels come from.
        folder: The predictions folder; a run that was cut there is continued.
        settings: How.
        progress: Called with (images done, images in all) after each image.
        engine: Computes the errors; by default this process.

    Raises:
        ConfigError: if the folder holds a run with other settings, or an option cannot be carried
            out.
        Interrupted: after SIGINT or SIGTERM, once the images under way are finished and saved.
        DataError: under `strict`, for the first image that cannot be read or judged.
        WorkerError: if a worker of a cluster failed; what was finished is kept.
    """
    started = time.perf_counter()
    engine = engine or LocalEngine()
    run = _Run(model, dataset, folder, engine.resolved(settings), engine)
    failures = run.evaluate(progress or (lambda done, total: None))
    seconds = time.perf_counter() - started
    with exclusive(folder):
        run.store.reload()
        waiting = [
            r.image_id
            for r in dataset.records
            if r.image_id not in run.store.finished and r.image_id not in failures
        ]
        if waiting:
            return ClassifyResult(folder, None, len(failures), len(waiting), {})
        return run.conclude(failures, seconds)


@dataclass
class _Run:
    model: DiffusionModel
    dataset: Dataset
    folder: Path
    settings: ClassifySettings
    engine: Engine
    records: list[Record] = field(init=False)
    store: ErrorStore = field(init=False)
    evaluated: int = 0
    calls: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        self.records = settings.records_of_shard(self.dataset.records)
        depends_on: dict[str, str | int | bool] = {
            "model_sha256": self.model.sha256,
            "seed": settings.seed,
            "bank": settings.bank_size,
            "sampling": settings.sampling,
            "trials": settings.num_trials,
            "precision": settings.precision,
            "deterministic": settings.deterministic,
            "inputs": inputs_hash(self.dataset),
        }
        if not settings.ending(len(self.model.classes)).never:
            depends_on |= {name: str(value) for name, value in settings.decision.items()}
        if settings.evidence:
            weights = {} if settings.weights is None else settings.weights.as_dict()
            depends_on["evidence"] = f"{settings.evidence_rule} {weights or ''}".strip()
        first, count = settings.shard or (1, 1)
        self.store = ErrorStore(
            self.folder,
            self.model.classes,
            depends_on,
            writer=f"{first}of{count}",
            overwrite=settings.overwrite,
        )

    def evaluate(self, progress: Progress) -> dict[str, str]:
        """Compute and store what is missing; return why images failed, by image id."""
        todo = [record for record in self.records if record.image_id not in self.store.finished]
        done, failures = len(self.records) - len(todo), dict[str, str]()
        evidence = self._evidence(todo) if self.settings.evidence else None
        with stop_requests() as stop:
            for result in self.engine.errors(
                self.model, self.dataset, todo, self.settings, stop=stop, evidence=evidence
            ):
                image_id = todo[result.index].image_id
                self.calls += result.calls
                if result.failure is None:
                    self.store.add(image_id, result.errors, result.logsnr, result.stopped_by)
                    self.evaluated += 1
                elif self.settings.strict:
                    self.store.flush()
                    raise result.failure
                else:
                    failures[image_id] = reason(result.failure)
                done += 1
                progress(done, len(self.records))
            self.store.flush()
            if done < len(self.records):
                stop.raise_if_made()
        return failures

    def _evidence(self, todo: Sequence[Record]) -> EvidenceCollector:
        """Return what adds up the maps of these images and writes each as it is done."""
        model, settings = self.model, self.settings
        edges = part_edges(model.schedule)
        store = EvidenceStore.create(
            self.folder,
            [record.image_id for record in self.dataset.records],
            model.classes,
            map_sides(model.shape, model.transform.wavelet),
            edges=edges,
            rule=settings.evidence_rule,
            overwrite=settings.overwrite,
        )

        def write(index: int, maps: ErrorMaps) -> None:
            store.write(todo[index].image_id, maps)

        return EvidenceCollector(
            write, edges, model.transform.wavelet, settings.space, settings.weights
        )

    def conclude(self, failures: dict[str, str], seconds: float) -> ClassifyResult:
        """Write the tables of the whole dataset."""
        facts = {**self._facts(), **self._speed(seconds)}
        table, info = conclude(self.store, self.dataset.records, failures, self.settings, facts)
        return ClassifyResult(self.folder, table, len(failures), 0, info)

    def _speed(self, seconds: float) -> dict[str, float | None]:
        """Return time, rate and network calls, discarded ones too, of this process.

        If it had nothing to do, those of the earlier one.
        """
        earlier = self.folder / CLASSIFY_FILE
        if not self.evaluated and earlier.is_file():
            before = json.loads(earlier.read_text(encoding="utf-8"))
            return {name: before.get(name) for name in ("seconds", "images_per_second", "calls")}
        rate = round(self.evaluated / seconds, 4) if self.evaluated else None
        return {"seconds": round(seconds, 3), "images_per_second": rate, "calls": self.calls}

    def _facts(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "notice": NOTICE,
            "classes": list(self.model.classes),
            "positive": self.model.positive,
            "bank": settings.bank_size,
            "sampling": settings.sampling,
            "seed": settings.seed,
            **self.engine.about,
            "device": settings.device,
            "precision": settings.precision,
            "batch_size": settings.batch_size,
            "deterministic": settings.deterministic,
            "evidence": settings.evidence_rule if settings.evidence else None,
            "shard": None if settings.shard is None else "{}/{}".format(*settings.shard),
            "model_sha256": self.model.sha256,
            "warnings": list(dict.fromkeys([*self.model.warnings, *self.dataset.warnings])),
        }
