"""What Prometheus reads from a server; its own registry, so that two servers in a process do not add up."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; any thread may count."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "vl2v_requests", "Requests by API and HTTP status.", ("api", "status"), registry=registry
        )
        self.items = Counter(
            "vl2v_items", "Images and texts that were embedded and answered.", ("kind",), registry=registry
        )
        self.batch_size = Histogram(
            "vl2v_batch_size",
            "Images or texts in a batch.",
            ("kind",),
            buckets=_ITEMS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "vl2v_request_seconds",
            "From a request's headers to its answer.",
            ("api",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.teacher_seconds = Histogram(
            "vl2v_teacher_seconds",
            "The teacher's time for one batch.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_items = Gauge(
            "vl2v_queue_items", "Images and texts that wait or are computed.", registry=registry
        )

    def text(self) -> bytes:
        """All of them in Prometheus' text format (CONTENT_TYPE_LATEST)."""
        return generate_latest(self._registry)
