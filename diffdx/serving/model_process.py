"""The process that has the model: takes tasks from the server, one at a time."""

import logging
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from diffdx._typing import Errors, LogSNRs
from diffdx.classification.stopping import share_sequence
from diffdx.classification.voting import trial_votes
from diffdx.errors import DiffdxError
from diffdx.serving.tasks import (
    Cancel,
    Cancelled,
    ClassifyTask,
    Failed,
    Json,
    ModelSettings,
    Outcome,
    Progress,
    Ready,
    Refused,
    Task,
)

if TYPE_CHECKING:
    from diffdx.serving.cases import Cases

log = logging.getLogger(__name__)

UNPROCESSABLE, BROKEN = 422, 500


class _CancelledError(Exception):
    """Raised at the next network call once the server no longer wants the answer."""


def run_model(line: Connection, settings: ModelSettings) -> None:
    """Load the model and carry out tasks until the server is gone: what the process runs.

    Args:
        line: To the server.
        settings: Which model, and how.
    """
    # The server names this function without ever importing torch.
    from diffdx.serving.cases import Cases

    try:
        cases = Cases(settings)
    except DiffdxError as error:
        line.send(Refused(str(error), error.exit_code))
        return
    worker = ModelWorker(cases, line)
    line.send(Ready(cases.facts()))
    while True:
        task = line.recv()
        # A request to cancel may come after its task is done.
        if not isinstance(task, Cancel):
            line.send(worker.carry_out(task))


class ModelWorker:
    """Carries out tasks and tells the server how far they are."""

    def __init__(self, cases: "Cases", line: Connection) -> None:
        """Take the model and the line to the server."""
        self._cases, self._line = cases, line
        self._trials = self._calls = 0
        cases.model.register_forward_pre_hook(self._before_call)

    def carry_out(self, task: Task) -> Outcome | Failed | Cancelled:
        """Return what became of a task; only what is no `Exception` goes further."""
        self._trials = self._calls = 0
        try:
            if isinstance(task, ClassifyTask):
                return self._cases.classify(task, self._watch)
            return self._cases.explain(task)
        except _CancelledError:
            return Cancelled()
        except DiffdxError as error:
            return Failed(UNPROCESSABLE, str(error))
        except Exception as error:
            log.exception("a task failed")
            return Failed(BROKEN, f"{type(error).__name__} in the model; see the server's log")

    def _watch(self, errors: Errors, logsnr: LogSNRs) -> None:
        self._leave_if_asked()
        self._line.send(Progress(self._votes(errors)))

    def _votes(self, errors: Errors) -> Json:
        """Return the votes so far, and who won each trial since the last time."""
        trials = errors.shape[2]
        shares = trial_votes(errors, ties=self._cases.settings.ties)[0]
        total = self._cases.settings.num_trials
        low, _ = share_sequence((shares == 1).sum(axis=1), np.array(trials), total)
        _, high = share_sequence((shares > 0).sum(axis=1), np.array(trials), total)
        new = shares[:, self._trials :]
        won = [int(k) if share == 1 else None for k, share in _winners(new)]
        self._trials = trials
        return {
            "trials": trials,
            "total": total,
            "votes": shares.sum(axis=1).tolist(),
            "share_low": low.tolist(),
            "share_high": high.tolist(),
            "won": won,
        }

    def _before_call(self, model: Any, arguments: Any) -> None:
        """Count a call of a counterfactual's sampler; classification calls the denoiser alone."""
        self._leave_if_asked()
        self._calls += 1
        if self._calls % 10 == 0:
            self._line.send(Progress({"calls": self._calls}))

    def _leave_if_asked(self) -> None:
        if self._line.poll() and isinstance(self._line.recv(), Cancel):
            raise _CancelledError


def _winners(shares: np.ndarray) -> list[tuple[int, float]]:
    """Return the most voted class of each trial, and what share of the vote it has."""
    return list(zip(shares.argmax(axis=0).tolist(), shares.max(axis=0).tolist(), strict=True))
