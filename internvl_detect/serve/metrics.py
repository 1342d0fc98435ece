"""What ``/metrics`` counts, in Prometheus' form. No file name, token or address is a label.

Not here: logs (``guard``).
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ivdetect_requests",
            "Requests by route and answer.",
            ["route", "status"],
            registry=registry,
        )
        self.request_s = Histogram(
            "ivdetect_request_seconds", "Seconds to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.files = Counter("ivdetect_files", "Files judged, by decision.", ["decision"], registry=registry)
        self.cache_hits = Counter("ivdetect_cache_hits", "Files answered from the cache.", registry=registry)
        self.stage_s = Histogram(
            "ivdetect_stage_seconds",
            "Seconds in a stage, waiting included.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "ivdetect_batch_size", "Files judged together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.batch_s = Histogram("ivdetect_batch_seconds", "Seconds of the model.", buckets=_SECONDS, registry=registry)
        self.worker_restarts = Counter(
            "ivdetect_decoder_restarts", "Decoding processes that died of a file.", registry=registry
        )
        self.refused = Counter("ivdetect_refused", "Requests refused, by reason.", ["reason"], registry=registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
