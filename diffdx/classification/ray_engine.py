"""Denoising errors from a Ray cluster: images -> blocks -> actors that hold the model -> here.

Ray Data hands blocks of images to a fixed number of actors, no more at a time than they take
(back-pressure), restarts an actor that dies and gives its block to another. A block's errors come
back as one piece or not at all, so no image is lost or doubled; the caller stores them. A block on
which actors die again and again is given up, its images fail, and the others go on. Each actor
reads the image files by itself: they must have the same paths on all machines. The model travels
through Ray's object store.

Connects to the cluster that RAY_ADDRESS names or that this machine belongs to; without one, Ray
starts on this machine alone and ends with the process. Optional dependency: `diffdx[cluster]`.
"""

import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from diffdx._interrupt import StopRequest
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.attempts import Attempts
from diffdx.classification.denoising_errors import ImageErrors
from diffdx.classification.engine import LocalEngine
from diffdx.classification.evidence import EvidenceCollector
from diffdx.classification.settings import ClassifySettings
from diffdx.data.dataset import Dataset, Record
from diffdx.errors import ConfigError, WorkerError

CALLS_PER_BLOCK = 16_384
"""Network calls of a block: a lost one costs a CPU a minute, and a GPU takes seconds for it."""
BLOCKS_PER_ACTOR = 8
"""At least, where there are as many images: at the end all but one wait for the last block."""
MAX_BLOCKS = 10_000
"""Of a run; with more images they grow, since each costs the cluster's head bookkeeping."""
RETRIES = 3
"""How often a block is tried again on which an actor died."""


class RayEngine:
    """Computes on a Ray cluster; errors come as blocks are done."""

    def __init__(self, actors: int | None = None, cores: int = 1) -> None:
        """Connect to the cluster, or start Ray on this machine.

        Args:
            actors: Processes that hold the model; None is one for each GPU, without GPUs one for
                each `cores` CPU cores.
            cores: CPU cores, and threads, of an actor.

        Raises:
            ConfigError: if Ray is not installed, or the numbers make no sense.
        """
        if cores < 1 or (actors is not None and actors < 1):
            raise ConfigError("--actors and --actor-cores: use numbers of at least 1")
        self.actors, self.cores = actors, cores
        self._ray = _connected()

    @property
    def about(self) -> dict[str, str | int]:
        """Return its name, how many actors it has and how many threads each of them."""
        return {"engine": "ray", "processes": self.actors or 0, "threads": self.cores}

    def resolved(self, settings: ClassifySettings) -> ClassifySettings:
        """Return the settings with what `auto` means on the machines of the actors.

        Raises:
            ConfigError: if the cluster has no room for the actors, or maps are wanted.
        """
        if settings.evidence:
            raise ConfigError(
                "--evidence is written by the local engine: leave out --engine ray, and divide "
                "the images with --shard"
            )
        if settings.device == "auto":
            gpus = self._ray.cluster_resources().get("GPU", 0)
            settings = replace(settings, device="cuda" if gpus >= 1 else "cpu")
        self.actors = self._count(settings)
        task = self._ray.remote(**self._place(settings), max_retries=RETRIES)(_resolved)
        try:
            resolved: ClassifySettings = self._ray.get(task.remote(settings))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return resolved

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
        """Yield the errors of each record, block by block as they are done.

        Raises:
            WorkerError: if an actor failed otherwise than by dying.
        """
        if not records:
            return
        actors = self._count(settings)
        blocks = _blocks(records, settings.num_trials * len(model.classes), actors)
        # Fetched by the actors themselves, and held here: a restarted actor finds them again.
        shared = [self._ray.put(model), self._ray.put(dataset.subset([]))]
        counting = self._ray.remote(num_cpus=0, max_restarts=-1)(Attempts)
        attempts = counting.remote(1 + RETRIES)
        results = (
            self._ray.data.from_items(blocks, override_num_blocks=len(blocks))
            .map_batches(
                _Actor,
                fn_constructor_args=(shared, attempts, settings, self.cores, os.getcwd()),
                batch_size=1,
                # One at a time: the actor that is up first would take blocks from the others.
                compute=self._ray.data.ActorPoolStrategy(
                    size=min(actors, len(blocks)), max_tasks_in_flight_per_actor=1
                ),
                **self._place(settings),
            )
            .iter_rows()
        )
        try:
            for row in results:
                if stop.signal_number is not None:
                    return
                result: ImageErrors = pickle.loads(row["result"])
                yield result
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"a worker failed ({_reason(error)}); what was finished is kept: give the same "
                "command again once the cause is gone"
            ) from error

    def _place(self, settings: ClassifySettings) -> dict[str, int]:
        """Return what an actor occupies."""
        gpus = {"num_gpus": 1} if settings.device.startswith("cuda") else {}
        return {"num_cpus": self.cores, **gpus}

    def _count(self, settings: ClassifySettings) -> int:
        """Return how many actors there will be."""
        room = self._ray.cluster_resources()
        fits = int(room.get("CPU", 0)) // self.cores
        if settings.device.startswith("cuda"):
            fits = min(fits, int(room.get("GPU", 0)))
        if fits < (self.actors or 1):
            raise ConfigError(
                f"the Ray cluster has room for {fits} actors of {self.cores} cores on "
                f"{settings.device}, not for {self.actors or 1}: lower --actors or --actor-cores, "
                "choose another --device, or start more nodes"
            )
        return self.actors or fits


class _Actor:
    """Holds a model and computes the errors of blocks of images."""

    def __init__(
        self, shared: list[Any], attempts: Any, settings: ClassifySettings, cores: int, folder: str
    ) -> None:
        import ray

        torch.set_num_threads(cores)
        if os.path.isdir(folder):
            # Paths of images may be relative to where the command was given.
            os.chdir(folder)
        self.model, self.dataset = ray.get(shared)
        self.may_begin: Callable[[int], bool] = lambda first: ray.get(attempts.begin.remote(first))
        self.settings = settings

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the pickled result of every image of a block."""
        (packed,) = batch["block"]
        first, records = pickle.loads(packed)
        results = []
        for result in self._results(records) if self.may_begin(first) else self._given_up(records):
            result.index += first
            results.append(pickle.dumps(result))
        return {"result": np.array(results, dtype=object)}

    def _results(self, records: Sequence[Record]) -> Iterator[ImageErrors]:
        return LocalEngine().errors(
            self.model, self.dataset, records, self.settings, stop=StopRequest(), evidence=None
        )

    def _given_up(self, records: Sequence[Record]) -> Iterator[ImageErrors]:
        nothing = np.empty((len(self.model.classes), 0), np.float32), np.empty(0, np.float32)
        failure = WorkerError(
            f"workers died on this image, or on one of the {len(records) - 1} beside it, "
            f"{RETRIES + 1} times: out of memory, or a damaged file? Try it alone"
        )
        for index in range(len(records)):
            yield ImageErrors(index, *nothing, failure=failure)


def _resolved(settings: ClassifySettings) -> ClassifySettings:
    """Return the settings as they are resolved where this is called."""
    return LocalEngine().resolved(settings)


def _blocks(records: Sequence[Record], calls_per_image: int, actors: int) -> list[dict[str, bytes]]:
    """Return the records in blocks, each pickled with the position of its first."""
    count = max(1, CALLS_PER_BLOCK // calls_per_image)
    count = min(count, -(-len(records) // (BLOCKS_PER_ACTOR * actors)))
    count = max(count, -(-len(records) // MAX_BLOCKS))
    return [
        {"block": pickle.dumps((first, list(records[first : first + count])))}
        for first in range(0, len(records), count)
    ]


def _connected() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'diffdx[cluster]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    module: ModuleType = ray
    return module


def _reason(error: BaseException) -> str:
    """Return the first error that Ray's text of several tracebacks names, as one line."""
    named = re.search(r"^[A-Za-z_.]*(Error|Exception)\b.*", str(error), re.MULTILINE)
    return " ".join((named.group() if named else repr(error)).split())[:500]
