"""The service's Prometheus metrics. Each app has its own registry, so two can share a process."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

# From a tiny network's head to the deadline; Prometheus's default buckets end at 10 s.
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """Counters, histograms and gauges. Labels take few values, and none comes from a client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU seconds, open files
        self.requests = Counter(
            "cbam_lens_requests",
            "Requests answered, by the route's template.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.request_seconds = self._seconds(
            "cbam_lens_request_seconds", "From the first byte to the answer's end.", "route"
        )
        self.rejections = Counter(
            "cbam_lens_rejections",
            "Requests that got no answer to their question, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.stage_seconds = self._seconds(
            "cbam_lens_stage_seconds",
            "Where a request's time went: decode, queue, trunk, head, encode.",
            "stage",
        )
        self.batch_size = Histogram(
            "cbam_lens_batch_size",
            "Questions that shared a run of the models.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self.jobs = Counter(
            "cbam_lens_jobs", "Questions that reached the models.", registry=self.registry
        )
        self.dropped = Counter(
            "cbam_lens_jobs_dropped",
            "Questions that were queued and never reached the models: "
            "gone (client went), late (deadline), stopped (service stopped).",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("gone", "late", "stopped"):
            self.dropped.labels(reason)  # without a zero, a rate misses the first one

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls `value` whenever it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def _seconds(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, (label,), buckets=SECONDS, registry=self.registry)
