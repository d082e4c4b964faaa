"""What a service counts, in Prometheus' form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from geotile.results.report import Report
from geotile.service.records import JobRecord

Gauges = dict[str, tuple[str, dict[str, float]]]
"""By name: what it is, and values by endpoint; "" for one of no endpoint."""


class Meters:
    """Counters of a process that serves; gauges that are asked for when somebody looks.

    Parameters
    ----------
    look : callable
        Returns the gauges.
    """

    def __init__(self, look: Callable[[], Gauges] = dict) -> None:
        self.registry, self.look = CollectorRegistry(), look
        own: dict[str, Any] = {"registry": self.registry, "namespace": "geotile_service"}
        self._jobs = Counter("jobs", "Jobs that ended", ["status"], **own)
        self._waited = Histogram("job_wait_seconds", "From the queue to the end", buckets=_buckets(), **own)
        self._counts = {
            name: Counter(name, text, **own)
            for name, text in (
                ("tiles", "Tiles of images that were run"),
                ("tile_failures", "Tiles that failed"),
                ("requests", "Requests sent to models, retries among them"),
                ("retries", "Requests that were sent again"),
                ("throttled", "Requests that an endpoint had no room for"),
                ("detections", "Detections after merging"),
            )
        }
        self._steps = Counter("step_seconds", "Seconds of CPU by step; divide by tiles", ["step"], **own)
        self.registry.register(self)

    def ran(self, report: Report) -> None:
        """Count a run over an image."""
        for name, value in (
            ("tiles", report.tiles), ("tile_failures", len(report.failures)), ("requests", report.requests),
            ("retries", report.retries), ("throttled", report.throttled), ("detections", report.detections_after),
        ):  # fmt: skip
            self._counts[name].inc(value)
        for step, seconds in report.timing.items():
            self._steps.labels(step).inc(max(0.0, seconds))

    def ended(self, record: JobRecord) -> None:
        """Count a job that ended."""
        self._jobs.labels(record.status).inc()
        self._waited.observe(max(0.0, (record.ended or time.time()) - record.queued))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        for name, (text, values) in self.look().items():
            labels = [] if "" in values else ["endpoint"]
            family = GaugeMetricFamily(f"geotile_service_{name}", text, labels=labels)
            for endpoint, value in values.items():
                family.add_metric([endpoint] if labels else [], value)
            yield family


def _buckets() -> tuple[float, ...]:
    return tuple(base * 10.0**power for power in range(5) for base in (1, 3))
