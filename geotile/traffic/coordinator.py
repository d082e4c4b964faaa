"""The coordinator of a run, or of a group of runs: it divides one concurrency limit among all processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from geotile.results.report import Traffic
from geotile.traffic.circuit import Circuit
from geotile.traffic.limit import AutoLimit, GivenLimit, Tally

_log = logging.getLogger(__name__)
_REPORT_INTERVAL_S = 0.1
_SILENT_S = 30.0  # without a report, after which a process has no share
_WARNED_EVERY_S = 60.0  # tiles that always fail open the circuit again and again, when few others are left
_MAX_REPORTS_PER_S = 500  # over all processes: with more than 50 processes, each one reports less often


@dataclass(frozen=True, kw_only=True)
class TrafficSettings:
    """Settings of a run's requests."""

    concurrency: int | Literal["auto"]
    ready_timeout_s: float
    outage_timeout_s: float
    group: str | None = None
    """Name of a group of runs that share one concurrency limit and one circuit; None if the run is in no group."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Report of a process's gate to the coordinator."""

    process: str
    """Unique name of the gate."""
    worker: str | None
    """Address of the Dask worker that this process is; None if it is none."""
    wanted: int
    """Number of requests that the process still has to complete, including those in flight."""
    in_flight: int
    """Number of requests in flight."""
    tally: Tally
    """Outcomes since the previous report."""
    consecutive_failures: int
    """Number of failures since the last response."""
    last_failure: str
    """Message of the last of these failures."""
    models_fault: bool
    """Whether all of these failures show that the model cannot answer: it throttled them, or failed for a tile
    that it has answered before."""
    model_started: bool = False
    """Whether one of these failures shows that the model has started: an HTTP 500, which is the model's own."""
    trial_failed: bool = False
    """Whether the trial has failed since the previous report."""
    probe_result: tuple[str | None] | None
    """Result of the requested probe: a failure message, or (None,) if the model is ready; None without a probe."""
    suspects_outage: bool
    """Whether a tile is about to fail although no request was answered since the tile was first sent."""
    has_control: bool = False
    """Whether the process can send a tile that the model has answered before."""
    answered_s_ago: float = 0.0
    """Time since that one of the answered requests was sent which was sent last, in seconds."""
    working_s: float = 0.0
    """How long the model has worked on a request of the process, in seconds; 0 if it does not."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Reply of the coordinator to a report."""

    cap: int
    """Maximum number of requests that the process may have in flight."""
    probe: bool = False
    """Whether the process must probe the model now."""
    state: Literal["closed", "open", "trial"] = "closed"
    """State of the circuit."""
    outages: int = 0
    """Number of outages so far."""
    stop_reason: str | None = None
    """Reason why no more requests may be sent; None while they may."""
    abandoned: bool = False
    """Whether they may not because nobody wants the run's results any more."""
    answered_s_ago: float = math.inf
    """Time since that one of the answered requests of other processes was sent which was sent last, in seconds."""
    is_only_request: bool = False
    """Whether only one request is left in the run, over all processes."""
    next_report_s: float = _REPORT_INTERVAL_S
    """Delay before the next report, in seconds."""
    worker_left: bool = False
    """Whether the process is a worker that has left the cluster, so that nobody takes its results."""


WORKER_LEFT = Allowance(cap=0, worker_left=True)


@dataclass
class _Process:
    wanted: int = 0
    in_flight: int = 0
    cap: int = 0
    """Cap of the last allowance."""
    has_control: bool = False
    answered_at: float = -math.inf
    working_s: float = 0.0
    reported_at: float = 0.0
    reserved: int = 0
    """Requests that may be in flight by now: until its next report, the process may still use the previous cap."""


@dataclass
class Coordinator:
    """Receives reports and returns allowances. Not thread-safe; the caller passes the time."""

    settings: TrafficSettings
    limit: AutoLimit | GivenLimit = field(init=False)
    circuit: Circuit = field(init=False)
    throttled: int = 0
    """Number of throttled requests so far."""
    last_report_at: float = 0.0
    """Time of the last report."""
    _processes: dict[str, _Process] = field(default_factory=dict)
    _processes_by_worker: dict[str, set[str]] = field(default_factory=dict)
    _trial_process: str | None = None
    _probe_process: str | None = None
    _gone_answered_at: float = -math.inf
    _warned_at: float = -math.inf
    _outages_told: int = 0

    def __post_init__(self) -> None:
        concurrency = self.settings.concurrency
        self.limit = AutoLimit() if concurrency == "auto" else GivenLimit(concurrency)
        self.circuit = Circuit(self.settings.ready_timeout_s, self.settings.outage_timeout_s)

    def update(self, report: GateReport, now: float) -> Allowance:
        """Record a report and return the process's new allowance."""
        self.last_report_at = now
        process = self._processes.setdefault(report.process, _Process())
        if report.worker is not None:
            self._processes_by_worker.setdefault(report.worker, set()).add(report.process)
        process.wanted, process.in_flight, process.has_control = report.wanted, report.in_flight, report.has_control
        process.working_s, process.reported_at = report.working_s, now
        live = self._live(now)
        self.circuit.record_work(now, max(each.working_s for each in live.values()))
        before = self.circuit.state, self.circuit.stop_reason
        self._record(report, now)
        probe = report.wanted > 0 and self.circuit.start_probe(now)  # a process without tiles is about to end its gate
        if probe:
            self._probe_process = report.process
        if (self.circuit.state, self.circuit.stop_reason) != before:
            self._log_change(before[0], now)
        previous_cap, process.cap = process.cap, self._cap(report.process, live)
        process.reserved = max(previous_cap, process.cap, report.in_flight)
        if report.wanted == process.reserved == 0:
            self._gone_answered_at = max(self._gone_answered_at, process.answered_at)
            del self._processes[report.process]
        return Allowance(
            cap=process.cap, probe=probe, state=self.circuit.state,
            outages=self.circuit.outages, stop_reason=self.circuit.stop_reason,
            answered_s_ago=now - self._others_answered_at(report.process),
            is_only_request=sum(each.wanted for each in self._processes.values()) == 1,
            next_report_s=max(_REPORT_INTERVAL_S, len(self._processes) / _MAX_REPORTS_PER_S),
        )  # fmt: skip

    def remove_worker(self, worker: str) -> None:
        """Remove a worker that died, so that its share is free."""
        self.remove_processes(self._processes_by_worker.pop(worker, ()))

    def remove_processes(self, processes: Iterable[str]) -> None:
        """Remove processes that make no more requests: their shares are free, and others probe in their place."""
        for name in processes:
            self._processes.pop(name, None)
            if name == self._probe_process:
                self.circuit.lose_probe()

    def in_flight_and_limit(self) -> tuple[int, int]:
        """Return the number of requests in flight, according to the last reports, and the current limit."""
        return sum(each.in_flight for each in self._processes.values()), self.limit.limit

    def traffic(self) -> Traffic:
        """Return the summary of all requests so far."""
        return Traffic(
            concurrency=self.limit.limit, throttled=self.throttled,
            outages=self.circuit.outages, outage_s=round(self.circuit.open_s, 3), latency_s=0.0,
        )  # fmt: skip

    def _record(self, report: GateReport, now: float) -> None:
        tally, circuit = report.tally, self.circuit
        self.throttled += tally.throttled
        if circuit.state == "closed":
            self.limit.observe(now, tally)
        else:
            self.limit.restart_window()
        if report.probe_result is not None:
            self._probe_process = None
            circuit.record_probe(now, report.probe_result[0])
        if tally.answered:
            sent_at = self._processes[report.process].answered_at = now - report.answered_s_ago
            circuit.record_response(now, tally.latency_s / tally.answered, sent_at)
        failures = min(report.consecutive_failures, tally.failed + tally.throttled)
        if failures:
            circuit.record_failures(
                now, failures, report.models_fault, report.last_failure,
                model_started=report.model_started, of_trial=report.trial_failed,
            )  # fmt: skip
        if report.suspects_outage:
            circuit.suspect_outage(now)

    def _others_answered_at(self, name: str) -> float:
        return max(
            (each.answered_at for key, each in self._processes.items() if key != name), default=self._gone_answered_at
        )

    def _cap(self, name: str, live: Mapping[str, _Process]) -> int:
        if self.circuit.state == "open" or self.circuit.stop_reason:
            return 0
        others = sum(each.reserved for key, each in live.items() if key != name)
        if self.circuit.state == "closed":
            limit = self.limit.limit
            return max(0, min(_fair_share(live, name, limit), limit - others))
        trial, process = live.get(self._trial_process or ""), live[name]
        if trial is None or not trial.wanted or (process.wanted and process.has_control and not trial.has_control):
            self._trial_process = name
        return max(0, min(process.wanted, 1 - others)) if self._trial_process == name else 0

    def _live(self, now: float) -> dict[str, _Process]:
        """Return the processes that have reported lately. One that is frozen keeps no other from its work."""
        silent_s = max(_SILENT_S, 10 * len(self._processes) / _MAX_REPORTS_PER_S)
        return {key: each for key, each in self._processes.items() if now - each.reported_at < silent_s}

    def _log_change(self, previous_state: str, now: float) -> None:
        if self.circuit.stop_reason:
            _log.error("the run stops and keeps the results so far: %s", self.circuit.stop_reason)
        elif previous_state == "closed" and now - self._warned_at > _WARNED_EVERY_S:
            self._warned_at = now
            name, limit = self.circuit.timeout
            end = time.localtime(time.time() + self.circuit.gives_up_at - now)
            _log.warning(
                "all recent requests to the model failed (%s); requests are paused until one succeeds; "
                "the run gives up at %s (%s=%g s)", self.circuit.last_failure,
                time.strftime("%H:%M:%S", end), name, limit,
            )  # fmt: skip
        elif self.circuit.state == "closed" and self.circuit.outages > self._outages_told:
            self._outages_told = self.circuit.outages
            _log.warning("the model responds again")


def _fair_share(processes: Mapping[str, _Process], name: str, limit: int) -> int:
    """Return a process's max-min fair share: as even as possible, and never more than the process wants."""
    left = limit
    order = sorted(processes, key=lambda key: (processes[key].reserved > 0, processes[key].wanted))
    for position, key in enumerate(order):  # processes with a share come last, so that they keep the remainder
        share = min(processes[key].wanted, left // (len(order) - position))
        if key == name:
            return share
        left -= share
    return 0
