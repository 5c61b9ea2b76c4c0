"""Jobs: what was asked, how far it is, what came of it; in memory, for a limited time and number.

A job is known by a number that no one can guess, so that users do not see each other's.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from diffdx.serving.settings import ServeSettings
from diffdx.serving.tasks import Cancelled, ExplainTask, Failed, Json, Outcome, Task

State = Literal["waiting", "running", "done", "failed", "cancelled"]
_FINISHED = ("done", "failed", "cancelled")
_BEAT_SECONDS = 5.0
_LEAVE_SECONDS = 5.0
"""How long a job goes on after its last listener has left: a page may be reloaded."""


class BusyError(Exception):
    """No room for another job.

    Attributes:
        status: 429 if the client has too many jobs, 503 if the server has.
    """

    def __init__(self, status: int, message: str) -> None:
        """Keep what to answer."""
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Job:
    """One request to the model."""

    client: str
    task: Task
    of: "Job | None" = None
    """The classification that an explanation belongs to."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    events: list[Json] = field(default_factory=list)
    outcome: Outcome | None = None
    failure: Failed | None = None
    finished_at: float = 0.0
    cancel_asked: bool = False
    listeners: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kind(self) -> str:
        """`classify` or `explain`."""
        return "explain" if isinstance(self.task, ExplainTask) else "classify"

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _FINISHED

    def tell(self, event: Json) -> None:
        """Add an event and wake those who listen."""
        self.events.append(event)
        self._changed.set()
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Note that the model has the job."""
        self.state = "running"
        self.tell({"state": "running"})

    def finish(self, ending: Outcome | Failed | Cancelled) -> None:
        """Note what came of the job; its progress is forgotten."""
        if isinstance(ending, Outcome):
            self.state, self.outcome = "done", ending
        elif isinstance(ending, Failed):
            self.state, self.failure = "failed", ending
        else:
            self.state = "cancelled"
        self.finished_at = time.monotonic()
        self.tell({"state": self.state})

    async def follow(self) -> AsyncIterator[Json | None]:
        """Yield the events from the first on, and None whenever nothing came for a while."""
        seen = 0
        while True:
            while seen < len(self.events):
                yield self.events[seen]
                seen += 1
            if self.finished:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), _BEAT_SECONDS)
            except TimeoutError:
                yield None


class Jobs:
    """All jobs: those that wait, the one that runs, and those kept for their results."""

    def __init__(self, settings: ServeSettings) -> None:
        """Start with none."""
        self._settings = settings
        self._known: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._reserved: dict[str, int] = {}

    def reserve(self, client: str) -> None:
        """Take a place for a job whose image is still to come; `release` gives it back.

        Raises:
            BusyError: if the client or the server has too many.
        """
        mine = self._count(client)
        if mine >= self._settings.per_client:
            raise BusyError(
                429, f"{mine} of your jobs are waiting or running; wait for one of them"
            )
        if self.unfinished + sum(self._reserved.values()) >= self._settings.queue:
            raise BusyError(503, "the queue is full; try again in a while")
        self._reserved[client] = self._reserved.get(client, 0) + 1

    def release(self, client: str) -> None:
        """Give a reserved place back."""
        self._reserved[client] -= 1
        if not self._reserved[client]:
            del self._reserved[client]

    def add(self, client: str, task: Task, of: Job | None = None) -> Job:
        """Put a job at the end of the queue, in the client's reserved place."""
        job = Job(client, task, of)
        self._known[job.id] = job
        self._waiting.append(job)
        self._arrived.set()
        return job

    def find(self, number: str) -> Job | None:
        """Return the job of this number; None if there is none, or no more."""
        self._forget_old()
        return self._known.get(number)

    def position(self, job: Job) -> int:
        """Return how many jobs are before this one; 0 once it runs."""
        return 1 + self._waiting.index(job) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Have a job left as soon as possible; one that is finished stays as it is."""
        job.cancel_asked = True
        if job in self._waiting:
            self._waiting.remove(job)
            job.finish(Cancelled())

    def forget(self, job: Job) -> None:
        """Cancel a job, and drop whatever is known of it and of its explanations."""
        for other in [*self._known.values()]:
            if other is job or other.of is job:
                del self._known[other.id]
                self.cancel(other)

    async def listen(self, job: Job) -> AsyncIterator[Json | None]:
        """Yield what `Job.follow` does, and cancel the job if its last listener leaves for good."""
        job.listeners += 1
        try:
            async for event in job.follow():
                yield event
        finally:
            job.listeners -= 1
            asyncio.get_running_loop().call_later(_LEAVE_SECONDS, self._left, job)

    def _left(self, job: Job) -> None:
        if not job.listeners and not job.finished:
            self.cancel(job)

    async def next(self) -> Job:
        """Return the next job, once there is one."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    @property
    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return sum(not job.finished for job in self._known.values())

    def _count(self, client: str) -> int:
        own = (job for job in self._known.values() if job.client == client)
        return sum(not job.finished for job in own) + self._reserved.get(client, 0)

    def _forget_old(self) -> None:
        settings, now = self._settings, time.monotonic()
        finished = sorted(
            (job for job in self._known.values() if job.finished), key=lambda job: job.finished_at
        )
        surplus = len(finished) - settings.keep
        for place, job in enumerate(finished):
            if place < surplus or now - job.finished_at > settings.keep_seconds:
                del self._known[job.id]
