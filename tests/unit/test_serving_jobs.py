"""The queue, the engine that works it off, and the process that may die; with a model of lines."""

import asyncio
import time

import numpy as np
import pytest

from diffdx.errors import CheckpointError, ConfigError
from diffdx.serving import engine as engine_module
from diffdx.serving import jobs as jobs_module
from diffdx.serving.child import Child
from diffdx.serving.engine import Engine
from diffdx.serving.jobs import BusyError, Jobs
from diffdx.serving.monitoring import Monitor
from diffdx.serving.settings import ServeSettings, is_loopback, read_token
from diffdx.serving.tasks import (
    Cancel,
    Cancelled,
    ClassifyTask,
    ExplainTask,
    Failed,
    Outcome,
    Progress,
    Ready,
    Refused,
)

TASK = ClassifyTask(np.zeros((1, 2, 2), np.uint8))


class ScriptedChild(Child):
    """Plays a model's process: says what it was told to, and dies when it says EOFError."""

    def __init__(self, *starts, deaf=False):
        super().__init__(print)
        self.starts, self.says, self.sent = list(starts), [], []
        self.running, self.deaf, self.number_of_starts = False, deaf, 0

    @property
    def alive(self):
        return self.running

    def start(self):
        self.running = True
        self.number_of_starts += 1
        self.says = [self.starts.pop(0) if self.starts else Ready({"version": "0"})]

    def stop(self):
        self.running = False

    def send(self, message):
        self.sent.append(message)
        if isinstance(message, Cancel) and not self.deaf:
            self.says.append(Cancelled())

    def receive(self, seconds):
        if not self.says:
            time.sleep(0.01)
            return None
        said = self.says.pop(0)
        if said is EOFError:
            # Such a process may still look alive for a moment.
            raise EOFError
        return said


def run(story):
    return asyncio.run(asyncio.wait_for(story, 20))


def settings(**changed):
    return ServeSettings(**{"seconds": 60.0, **changed})


async def worked(child, *says, seconds=60.0, until=lambda job: job.finished, meanwhile=None):
    """Return a job that was given to an engine whose child says this, and the engine."""
    jobs, monitor = Jobs(settings()), Monitor()
    engine = Engine(child, jobs, monitor, seconds)
    engine.start()
    child.says += says
    work = asyncio.create_task(engine.work())
    jobs.reserve("a")
    jobs.release("a")
    job = jobs.add("a", TASK)
    while not until(job):
        await asyncio.sleep(0.01)
        if meanwhile is not None:
            meanwhile(jobs, job)
    await asyncio.sleep(0.05)
    work.cancel()
    return job, engine, monitor.text(jobs.unfinished).decode()


class TestEngine:
    def test_tells_progress_and_the_outcome(self):
        job, _, counts = run(worked(ScriptedChild(), Progress({"n": 1}), Outcome({"x": 2})))
        assert job.events == [{"state": "running"}, {"n": 1}, {"state": "done"}]
        assert job.outcome.result == {"x": 2}
        assert 'diffdx_jobs_total{kind="classify",state="done"} 1.0' in counts

    def test_a_dead_process_fails_its_job_and_is_started_again(self):
        child = ScriptedChild()
        job, _, counts = run(worked(child, EOFError))
        assert (job.state, job.failure.status) == ("failed", 500)
        assert (child.running, child.number_of_starts) == (True, 2)
        assert "diffdx_model_restarts_total 1.0" in counts

    def test_gives_up_after_starts_that_fail(self, monkeypatch):
        monkeypatch.setattr(engine_module, "_RETRY_SECONDS", 0)
        child = ScriptedChild(Ready({}), *[Refused("gone", 1)] * 3)
        _, engine, _ = run(worked(child, EOFError))
        assert "start the server again" in engine.down

        async def next_job():
            return await engine._carry_out(Jobs(settings()).add("a", TASK))

        assert run(next_job()) == Failed(503, engine.down)

    @pytest.mark.parametrize("deaf", [False, True])
    def test_a_job_that_takes_too_long_is_stopped(self, deaf, monkeypatch):
        monkeypatch.setattr(engine_module, "GRACE_SECONDS", 0.05)
        child = ScriptedChild(deaf=deaf)
        job, _, _ = run(worked(child, seconds=0.05))
        assert (job.state, job.failure.status) == ("failed", 504)
        # One that does not listen is ended and replaced.
        assert child.number_of_starts == (2 if deaf else 1)

    def test_a_cancelled_job_is_left(self):
        job, _, _ = run(worked(ScriptedChild(), meanwhile=lambda jobs, job: jobs.cancel(job)))
        assert job.state == "cancelled"

    @pytest.mark.parametrize(
        ("said", "error"),
        [
            (Refused("no", ConfigError.exit_code), ConfigError),
            (Refused("no", 1), CheckpointError),
            (EOFError, CheckpointError),
        ],
    )
    def test_a_model_that_cannot_be_used_is_an_error(self, said, error):
        child = ScriptedChild(said)
        with pytest.raises(error):
            Engine(child, Jobs(settings()), Monitor(), 1.0).start()
        assert not child.running

    def test_a_model_that_never_loads_is_an_error(self, monkeypatch):
        monkeypatch.setattr(engine_module, "START_SECONDS", 0.05)
        with pytest.raises(CheckpointError, match="too long"):
            Engine(ScriptedChild(None), Jobs(settings()), Monitor(), 1.0).start()


class TestJobs:
    def test_a_client_with_too_many_gets_429_and_a_full_queue_503(self):
        async def story():
            jobs = Jobs(settings(queue=3, per_client=2))
            for client in ("a", "a", "b"):
                jobs.reserve(client)
            with pytest.raises(BusyError) as full:
                jobs.reserve("c")
            with pytest.raises(BusyError) as many:
                jobs.reserve("a")
            assert (full.value.status, many.value.status) == (503, 429)
            jobs.release("a")
            jobs.add("a", TASK)
            with pytest.raises(BusyError):
                jobs.reserve("a")
            (await jobs.next()).finish(Outcome({}))
            jobs.reserve("a")

        run(story())

    def test_results_are_kept_for_a_limited_time_and_number(self, monkeypatch):
        async def story():
            now = [100.0]
            monkeypatch.setattr(jobs_module.time, "monotonic", lambda: now[0])
            jobs = Jobs(settings(keep=2, keep_seconds=10.0))
            made = [jobs.add("a", TASK) for _ in range(3)]
            for job in made:
                now[0] += 1
                job.finish(Outcome({}))
            assert [jobs.find(job.id) is not None for job in made] == [False, True, True]
            now[0] += 9.5
            assert [jobs.find(job.id) is not None for job in made] == [False, False, True]

        run(story())

    def test_forgetting_an_image_forgets_its_explanations(self):
        async def story():
            jobs = Jobs(settings())
            first = jobs.add("a", TASK)
            second = jobs.add("a", ExplainTask(b"", "X"), first)
            assert [jobs.position(job) for job in (first, second)] == [1, 2]
            jobs.forget(first)
            assert {first.state, second.state} == {"cancelled"}
            assert jobs.find(second.id) is None
            assert jobs.unfinished == 0

        run(story())

    def test_a_job_is_cancelled_once_its_last_listener_has_left(self, monkeypatch):
        monkeypatch.setattr(jobs_module, "_LEAVE_SECONDS", 0.05)

        async def story():
            jobs = Jobs(settings())
            job, other = jobs.add("a", TASK), jobs.add("a", TASK)

            async def listen():
                async for _ in jobs.listen(job):
                    pass

            one, two = (asyncio.create_task(listen()) for _ in range(2))
            await asyncio.sleep(0.01)
            one.cancel()
            await asyncio.sleep(0.1)
            assert not job.cancel_asked
            two.cancel()
            await asyncio.sleep(0.1)
            assert job.state == "cancelled"
            # No one ever listened to the other.
            assert other.state == "waiting"

        run(story())

    def test_a_listener_hears_that_nothing_happens(self, monkeypatch):
        monkeypatch.setattr(jobs_module, "_BEAT_SECONDS", 0.01)

        async def story():
            job = Jobs(settings()).add("a", TASK)
            async for event in job.follow():
                assert event is None
                return

        run(story())


class TestChild:
    def test_answers_dies_and_is_started_again(self):
        child = Child(id)  # ends at once
        with pytest.raises(EOFError):
            child.send("x")
        child.start()
        with pytest.raises(EOFError):
            child.receive(60.0)
        with pytest.raises(EOFError):
            child.send("x")
        child.stop()
        assert child.pid is None
        assert not child.alive


class TestSettings:
    def test_other_addresses_need_a_token(self):
        with pytest.raises(ConfigError, match="--token-file"):
            ServeSettings(host="0.0.0.0")
        assert ServeSettings(host="0.0.0.0", token="t" * 16).token
        assert [is_loopback(host) for host in ("::1", "127.0.0.9", "localhost", "x")] == [
            True,
            True,
            True,
            False,
        ]

    @pytest.mark.parametrize("wrong", [{"queue": 0}, {"seconds": 0.0}, {"keep_seconds": -1.0}])
    def test_impossible_numbers_are_refused(self, wrong):
        with pytest.raises(ConfigError):
            ServeSettings(**wrong)

    @pytest.mark.parametrize("content", [b"short", b"two words of a token", b"", b"\xff" * 40])
    def test_a_token_that_does_not_protect_is_refused(self, content, tmp_path):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(ConfigError, match="--token-file"):
            read_token(tmp_path / "token")

    def test_the_token_is_read_without_its_line_end(self, tmp_path):
        (tmp_path / "token").write_text("abcdefghijklmnop\n")
        assert read_token(tmp_path / "token") == "abcdefghijklmnop"
        with pytest.raises(ConfigError):
            read_token(tmp_path / "none")
