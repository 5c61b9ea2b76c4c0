"""What `GET /metrics` says, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Monitor:
    """Counts of one server."""

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "diffdx_http_requests",
            "Answers by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._jobs = Counter(
            "diffdx_jobs", "Jobs by kind and ending.", ["kind", "state"], registry=registry
        )
        self._seconds = Histogram(
            "diffdx_job_seconds",
            "Time of jobs in the model.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._unfinished = Gauge(
            "diffdx_jobs_unfinished", "Jobs that wait or run.", registry=registry
        )
        self._restarts = Counter(
            "diffdx_model_restarts",
            "Starts of the model's process after it died.",
            registry=registry,
        )

    def answered(self, route: str, status: int) -> None:
        """Count an answer.

        Args:
            route: Its path with placeholders, never the path itself, whose number is endless.
            status: Of HTTP.
        """
        self._requests.labels(route, str(status)).inc()

    def job_done(self, kind: str, state: str, seconds: float) -> None:
        """Count a job."""
        self._jobs.labels(kind, state).inc()
        self._seconds.labels(kind).observe(seconds)

    def restarted(self) -> None:
        """Count a new start of the model's process."""
        self._restarts.inc()

    def text(self, unfinished: int) -> bytes:
        """Return all counts, with how many jobs are unfinished now."""
        self._unfinished.set(unfinished)
        return generate_latest(self._registry)
