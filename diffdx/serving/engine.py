"""Gives jobs to the model's process one after another, and looks after that process.

job   -> too long            cancelled; if it does not listen, the process is ended
      -> no longer wanted    cancelled
      -> process dies        the job has failed, the next one gets a new process
"""

import asyncio
import contextlib
import logging
import time

from diffdx.errors import CheckpointError, ConfigError, DiffdxError
from diffdx.serving.child import Child
from diffdx.serving.jobs import Job, Jobs
from diffdx.serving.monitoring import Monitor
from diffdx.serving.tasks import Cancel, Cancelled, Failed, Json, Outcome, Progress, Ready, Refused

log = logging.getLogger(__name__)

START_SECONDS = 600.0
"""A large model may take minutes to load."""
GRACE_SECONDS = 10.0
"""How long a process may take to leave a job."""
_POLL_SECONDS = 0.2
_ATTEMPTS = 3
"""Starts in a row that may fail before the server says that it cannot serve."""
_RETRY_SECONDS = 2.0


class Engine:
    """The model's process at work.

    Attributes:
        facts: What the model says of itself.
        down: Why no job can be carried out; empty if all is well.
    """

    def __init__(self, child: Child, jobs: Jobs, monitor: Monitor, seconds: float) -> None:
        """Take the process and the jobs.

        Args:
            child: Its process.
            jobs: Where jobs come from.
            monitor: Told of every job.
            seconds: Longest time of a job.
        """
        self._child, self._jobs, self._monitor, self._seconds = child, jobs, monitor, seconds
        self.facts: Json = {}
        self.down = ""

    def start(self) -> None:
        """Start the process and wait for its model.

        Raises:
            ConfigError: if the model cannot be used as asked.
            CheckpointError: if there is no usable model.
        """
        self._child.start()
        deadline = time.monotonic() + START_SECONDS
        said = None
        try:
            while said is None and time.monotonic() < deadline:
                said = self._child.receive(_POLL_SECONDS)
        except EOFError:
            said = Refused("the model's process ended while it was loading; is memory short?", 1)
        if isinstance(said, Ready):
            self.facts = said.facts
            return
        self._child.stop()
        message = said.message if isinstance(said, Refused) else "the model took too long to load"
        wrong_use = isinstance(said, Refused) and said.exit_code == ConfigError.exit_code
        raise ConfigError(message) if wrong_use else CheckpointError(message)

    async def work(self) -> None:
        """Carry out jobs for ever."""
        while True:
            job = await self._jobs.next()
            started = time.monotonic()
            ending = await self._carry_out(job)
            job.finish(ending)
            self._monitor.job_done(job.kind, job.state, time.monotonic() - started)
            if not self._child.alive:
                await self._restart()

    def stop(self) -> None:
        """End the process."""
        self._child.stop()

    async def _carry_out(self, job: Job) -> Outcome | Failed | Cancelled:
        if self.down:
            return Failed(503, self.down)
        job.begin()
        try:
            self._child.send(job.task)
            return await self._ending(job)
        except EOFError:
            # It may not be known as dead yet.
            self._child.stop()
            return Failed(500, "the model's process died of this job; the server goes on")

    async def _ending(self, job: Job) -> Outcome | Failed | Cancelled:
        """Return what came of a job that the process has."""
        deadline, grace_until = time.monotonic() + self._seconds, None
        too_long = Failed(504, f"the job took over {self._seconds:g} s and was stopped")
        while True:
            said = await asyncio.to_thread(self._child.receive, _POLL_SECONDS)
            now = time.monotonic()
            if isinstance(said, Progress):
                job.tell(said.said)
            elif isinstance(said, Cancelled):
                return Cancelled() if job.cancel_asked else too_long
            elif isinstance(said, Outcome | Failed):
                return said
            if grace_until is None and (job.cancel_asked or now > deadline):
                self._child.send(Cancel())
                grace_until = now + GRACE_SECONDS
            elif grace_until is not None and now > grace_until:
                self._child.stop()
                return Cancelled() if job.cancel_asked else too_long

    async def _restart(self) -> None:
        """Start the process anew; after some failures say that nothing can be done."""
        for _ in range(_ATTEMPTS):
            self._monitor.restarted()
            with contextlib.suppress(DiffdxError):
                await asyncio.to_thread(self.start)
                return
            log.warning("the model's process could not be started")
            await asyncio.sleep(_RETRY_SECONDS)
        self.down = "the model cannot be loaded any more; start the server again"
