"""Prometheus metrics of a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from geotile.results.report import Report
from geotile.service.records import JobRecord


class Gauge(NamedTuple):
    """A gauge at one moment."""

    description: str
    label: str
    """Name of the label by which the values differ; empty for a gauge with one value."""
    values: Mapping[str, float]


Gauges = dict[str, Gauge]
"""Gauges by name."""


class ServiceMetrics:
    """Counters of a service process, and gauges that are read on each scrape.

    Parameters
    ----------
    read_gauges : callable
        Function without arguments that returns `Gauges`.
    """

    def __init__(self, read_gauges: Callable[[], Gauges] = dict) -> None:
        self.registry, self.read_gauges = CollectorRegistry(), read_gauges
        options: dict[str, Any] = {"registry": self.registry, "namespace": "geotile_service"}
        self._jobs = Counter("jobs", "Finished jobs", ["status"], **options)
        self._wait = Histogram(
            "job_wait_seconds", "Time from submission to the end of a job", buckets=_buckets(), **options
        )
        self._counters = {
            name: Counter(name, description, **options)
            for name, description in (
                ("tiles", "Tiles of processed images"),
                ("tile_failures", "Failed tiles"),
                ("requests", "Requests sent to models, including retries"),
                ("retries", "Requests sent again"),
                ("throttled", "Requests that an endpoint throttled"),
                ("detections", "Detections after merging"),
            )
        }
        self._timing = Counter("step_seconds", "CPU time of each step in seconds; divide by tiles", ["step"], **options)
        self.registry.register(self)

    def count_run(self, report: Report) -> None:
        """Count the tiles, requests and detections of a run over an image."""
        for name, value in (
            ("tiles", report.tiles), ("tile_failures", len(report.failures)), ("requests", report.requests),
            ("retries", report.retries), ("throttled", report.throttled),
            ("detections", report.get("detections_after", 0)),
        ):  # fmt: skip
            self._counters[name].inc(value)
        for step, seconds in report.timing.items():
            self._timing.labels(step).inc(max(0.0, seconds))

    def count_job(self, record: JobRecord) -> None:
        """Count a finished job."""
        self._jobs.labels(record.status).inc()
        self._wait.observe(max(0.0, (record.finished or time.time()) - record.queued))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; called by the registry on each scrape."""
        for name, (description, label, values) in self.read_gauges().items():
            family = GaugeMetricFamily(f"geotile_service_{name}", description, labels=[label] if label else [])
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            yield family


def _buckets() -> tuple[float, ...]:
    return tuple(base * 10.0**power for power in range(5) for base in (1, 3))
