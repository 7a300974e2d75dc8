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
            "Number of requests answered, by route.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.request_seconds = self._seconds(
            "cbam_lens_request_seconds",
            "Seconds from the first byte of a request to the end of its answer.",
            "route",
        )
        self.rejections = Counter(
            "cbam_lens_rejections",
            "Number of requests that were refused, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.stage_seconds = self._seconds(
            "cbam_lens_stage_seconds",
            "Seconds that a request spent in each stage: decode, queue, trunk, head, trial (of "
            "heat maps), encode.",
            "stage",
        )
        self.batch_size = Histogram(
            "cbam_lens_batch_size",
            "Number of questions that shared one run of the models.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self.jobs = Counter(
            "cbam_lens_jobs",
            "Number of questions that reached the models; of a long one, each slice.",
            registry=self.registry,
        )
        self.dropped = Counter(
            "cbam_lens_jobs_dropped",
            "Number of questions that left the queue without an answer, by reason: gone (client "
            "left), late (the deadline passed), stopped (the service stopped).",
            ("reason",),
            registry=self.registry,
        )
        self.live = Gauge(
            "cbam_lens_live_streams",
            "Number of open live streams.",
            registry=self.registry,
        )
        self.live_frames = Counter(
            "cbam_lens_live_frames",
            "Number of frames of live streams: answered, skipped (for a later one), refused.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("answered", "skipped", "refused"):
            self.live_frames.labels(outcome)
        for reason in ("gone", "late", "stopped"):
            self.dropped.labels(reason)  # without a zero, a rate misses the first one

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls `value` whenever it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def _seconds(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, (label,), buckets=SECONDS, registry=self.registry)
