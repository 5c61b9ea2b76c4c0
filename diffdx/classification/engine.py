"""Where denoising errors are computed: in this process, or by an engine that has many.

An engine turns the records of a dataset into errors. What it does depends on an image's content
and on the settings alone, so all engines agree: to the byte if `deterministic`, else to rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from diffdx._device import keep_freed_memory, resolve_device, resolve_precision
from diffdx._interrupt import StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.denoising_errors import (
    ImageErrors,
    denoising_errors,
    resolve_batch_size,
)
from diffdx.classification.evidence import EvidenceCollector
from diffdx.classification.reading import read_ahead
from diffdx.classification.settings import ClassifySettings
from diffdx.data.dataset import Dataset, Record


@runtime_checkable
class Engine(Protocol):
    """What computes the denoising errors of a run."""

    @property
    def about(self) -> dict[str, str | int]:
        """What `classify.json` says of it: its name, its processes, threads of each."""

    def resolved(self, settings: ClassifySettings) -> ClassifySettings:
        """Return the settings with device, precision and batch size as they will be.

        Raises:
            ConfigError: if the engine cannot carry them out.
        """

    def errors(
        self,
        model: DiffusionModel,
        dataset: Dataset,
        records: Sequence[Record],
        settings: ClassifySettings,
        *,
        stop: StopRequest,
        evidence: EvidenceCollector | None,
    ) -> Iterator[ImageErrors]:
        """Yield the errors of each record, `index` its position in `records`, in any order.

        Args:
            model: With which network.
            dataset: Decodes images.
            records: Which ones.
            settings: As `resolved` returns them.
            stop: Once made, no further image is begun.
            evidence: Gets the maps; None if none are wanted.
        """


class LocalEngine:
    """Computes in this process, on one device; errors come in the order of the records."""

    @property
    def about(self) -> dict[str, str | int]:
        """Return its name and how many threads torch has here."""
        return {"engine": "local", "processes": 1, "threads": torch.get_num_threads()}

    def resolved(self, settings: ClassifySettings) -> ClassifySettings:
        """Return the settings with what `auto` means on this machine."""
        device = resolve_device(settings.device)
        return replace(
            settings,
            device=str(device),
            precision=resolve_precision(settings.precision, device),
            batch_size=resolve_batch_size(settings.batch_size, device),
        )

    def errors(
        self,
        model: DiffusionModel,
        dataset: Dataset,
        records: Sequence[Record],
        settings: ClassifySettings,
        *,
        stop: StopRequest,
        evidence: EvidenceCollector | None,
    ) -> Iterator[ImageErrors]:
        """Yield the errors of each record in order; the model is moved to the device."""
        keep_freed_memory()
        resolved = self.resolved(settings)
        assert resolved.precision != "auto"
        assert resolved.batch_size != "auto"
        model = model.to(resolved.device)
        yield from denoising_errors(
            model.denoiser,
            model.schedule,
            read_ahead(dataset, records, model.preprocess, stop),
            resolved.bank,
            num_trials=resolved.num_trials,
            encode=model.transform.encode,
            batch_size=resolved.batch_size,
            device=resolved.device,
            precision=resolved.precision,
            deterministic=resolved.deterministic,
            ending=resolved.ending(len(model.classes)),
            evidence=evidence,
        )
