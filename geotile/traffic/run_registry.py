"""The coordinators of all runs, in one place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from geotile.results.report import Traffic
from geotile.traffic.coordinator import Allowance, Coordinator, GateReport, TrafficSettings

_MAX_FINISHED_RUNS = 1000
_STALE_S = 6 * 3600.0  # a run without reports for so long is over: its client died


@dataclass
class _Run:
    """A run that has sent a report."""

    key: str
    """Key of its coordinator: the run's group, or its own name."""
    coordinator: Coordinator
    processes: set[str]
    traffic_before: Traffic
    """Summary of the coordinator's requests when the run started."""
    throttled: int = 0
    answered: int = 0
    latency_s: float = 0.0
    """Sum over the requests that were answered."""


class RunRegistry:
    """The coordinators of all runs: one for each run without a group, and one for all runs of a group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coordinators: dict[str, Coordinator] = {}
        self._runs: dict[str, _Run] = {}
        self._finished: OrderedDict[str, Allowance] = OrderedDict()  # the last word to each run

    def update(self, run: str, settings: TrafficSettings, report: GateReport) -> Allowance:
        """Pass a report to the run's coordinator and return the new allowance."""
        now = time.monotonic()
        with self._lock:
            if run in self._finished:  # a region of the run has not been notified yet
                return self._finished[run]
            if run not in self._runs:
                self._start(run, settings, now)
            entry = self._runs[run]
            entry.processes.add(report.process)
            entry.throttled += report.tally.throttled
            entry.answered += report.tally.answered
            entry.latency_s += report.tally.latency_s
            return entry.coordinator.update(report, now)

    def finish(self, run: str) -> Traffic | None:
        """Remove a run; return the summary of its requests, or None if it sent no report."""
        with self._lock:
            self._mark_finished(run, Allowance(cap=0, stop_reason="the run is over", abandoned=True))
            entry = self._runs.pop(run, None)
            if entry is None:
                return None
            entry.coordinator.remove_processes(entry.processes)
            if entry.key == run:
                self._coordinators.pop(run, None)
        after, before = entry.coordinator.traffic(), entry.traffic_before
        return Traffic(
            concurrency=after.concurrency, throttled=entry.throttled, outages=after.outages - before.outages,
            outage_s=round(after.outage_s - before.outage_s, 3),
            latency_s=round(entry.latency_s / max(1, entry.answered), 6),
        )  # fmt: skip

    def waiting_for(self, run: str) -> str:
        """Return why a run sends no requests; an empty text if it does, or has not sent a report."""
        with self._lock:
            entry = self._runs.get(run)
            return "" if entry is None else entry.coordinator.circuit.waiting_for

    def in_flight_and_limits(self) -> dict[str, tuple[int, int]]:
        """Return the number of requests in flight and the limit, for each group and each run without a group."""
        with self._lock:
            return {key: each.in_flight_and_limit() for key, each in self._coordinators.items()}

    def remove_worker(self, worker: str) -> None:
        """Remove a worker that died from all coordinators."""
        with self._lock:
            for each in self._coordinators.values():
                each.remove_worker(worker)

    def _start(self, run: str, settings: TrafficSettings, now: float) -> None:
        self._remove_stale(now)
        key = settings.group or run
        group_runs = [name for name, each in self._runs.items() if each.key == key]
        coordinator = self._coordinators.get(key)
        if coordinator is not None and coordinator.circuit.stop_reason:
            # The group gave up on the model: its other runs stop, and this run gets a new coordinator.
            for name in group_runs:
                self._mark_finished(name, Allowance(cap=0, stop_reason=coordinator.circuit.stop_reason))
            coordinator = None
        if coordinator is None or (not group_runs and coordinator.settings != settings):
            coordinator = Coordinator(settings)
        elif not group_runs:
            coordinator.limit.restart_window()  # the previous run's measurement ended with that run
            coordinator.circuit.restart(now)
        self._coordinators[key] = coordinator
        self._runs[run] = _Run(key, coordinator, set(), coordinator.traffic())

    def _remove_stale(self, now: float) -> None:
        stale = {key for key, each in self._coordinators.items() if now - each.last_report_at >= _STALE_S}
        self._runs = {name: each for name, each in self._runs.items() if each.key not in stale}
        self._coordinators = {key: each for key, each in self._coordinators.items() if key not in stale}

    def _mark_finished(self, run: str, last: Allowance) -> None:
        self._finished[run] = last
        while len(self._finished) > _MAX_FINISHED_RUNS:
            self._finished.popitem(last=False)
