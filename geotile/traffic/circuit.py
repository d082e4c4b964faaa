"""Circuit breaker of one model: whether requests are sent at all.

::

    closed ── only failures for a while ──▶ open ── a probe succeeds ──▶ trial (one request)
       ▲                                     ▲                             │
       │                                     └────────── it fails ─────────┤
       └───────────────────────── any response arrives ────────────────────┘

Closed: requests are sent. Open: no requests are sent; the model is probed (`Endpoint.ready`) after
pauses that grow. Trial: one request is sent, with a tile that the model has answered before (the control of a `Gate`),
else with one that waits. A response closes the circuit, a failure opens it again. (Nygard, "Release It!", 2007, calls
the trial state half-open.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_MIN_FAILURES = 5  # consecutive failures that open the circuit
_MIN_FAILING_S = 0.5  # time over which they must occur; three times the latency if that is longer
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.25, 30.0
_PAUSE_SHARE = 0.25  # pause between two probes, as a share of the time since the outage began
_MIN_WORK_S = 5.0  # of a request that no other has taken as long as
_PROBE_LOST_S = 60.0  # a probe without a result after this time is lost, because its process died
_MAX_REASON = 300  # characters


def waiting_for_model(failure: str) -> str:
    """Return that a model is waited for, with the message of its last failure, shortened.

    >>> waiting_for_model("connection refused")
    'waiting for the model: connection refused'
    """
    return f"waiting for the model: {failure[:_MAX_REASON]}".removesuffix(": ")


@dataclass
class Circuit:
    """State of one model, shared by all processes of a run. Times are seconds of a monotonic clock."""

    ready_timeout_s: float
    outage_timeout_s: float
    state: Literal["closed", "open", "trial"] = "closed"
    stop_reason: str | None = None
    """Reason why the run gave up on the model; None while it has not."""
    outages: int = 0
    """Number of outages so far."""
    open_s: float = 0.0
    """Total time during which the circuit was not closed because of outages."""
    last_failure: str = ""
    """Message of the last failure."""
    _ever_answered: bool = False
    _has_started: bool = False  # it answered with errors of its own, so nobody waits for it to start
    _failures: int = 0  # since the last response
    _failing_since: float = 0.0
    _working_s: float = 0.0
    _alive_at: float = -math.inf  # it answered a request that was sent before these failures, or was full
    _only_refused: bool = True  # all of these were throttled
    _latency_s: float = 0.0
    _opened_at: float = 0.0
    _outage_counted: bool = False
    _next_probe_at: float = 0.0

    def record_response(self, now: float, latency_s: float, sent_at: float) -> None:
        """Record that a response arrived.

        If its request was sent before the failures began, it does not show that the model works again: a server that
        is about to end answers what it has taken. The time until the run gives up begins again.
        """
        self._ever_answered, self._latency_s = True, latency_s
        if (self._failures or self.state != "closed") and sent_at <= self._failing_since:
            self._alive_at = now
            return
        self._failures = 0
        self._close(now)

    def restart(self, now: float) -> None:
        """Close the circuit for new runs, so that they do not pay for the time that earlier ones have waited."""
        self._failures = 0
        self._close(now)

    @property
    def waiting_for(self) -> str:
        """Why no requests are sent; empty while they are, and once the run has given up on the model."""
        waits = self.state != "closed" or (self._failures and self._is_full and self._working_s > _MIN_WORK_S)
        return waiting_for_model(self.last_failure) if waits and not self.stop_reason else ""

    @property
    def gives_up_at(self) -> float:
        """Time at which the run ends if no request succeeds before."""
        return self._nothing_since + self.timeout[1]

    @property
    def _nothing_since(self) -> float:
        return max(self._failing_since, self._alive_at)

    def record_failures(
        self, now: float, failures: int, models_fault: bool, message: str, *, model_started: bool = False,
        of_trial: bool = False,
    ) -> None:  # fmt: skip
        """Record that only failures occurred since the last call.

        Parameters
        ----------
        now : float
        failures : int
            Number of failures.
        models_fault : bool
            Whether all of them show that the model cannot answer, whatever the tile.
        message : str
            Message of the last failure.
        model_started : bool, default False
            Whether one of the failures shows that the model has started.
        of_trial : bool, default False
            Whether one of the failures is that of the trial. Requests that were sent before it can fail during it.
        """
        self._has_started |= model_started
        if self._failures == 0:
            self._failing_since, self._only_refused = now, True
        self._only_refused &= models_fault
        self._failures += failures
        self.last_failure = message or self.last_failure
        if self.state == "trial":
            if of_trial and models_fault:
                self._count_outage()
            if of_trial:
                self._reopen(now)
        elif self._fails_for_long(now):
            self.suspect_outage(now)

    def record_work(self, now: float, working_s: float) -> None:
        """Record how long the model has worked on a request; 0 if it does not.

        If it only refuses others, it is full and not gone, unless it works far longer than it has on any other.
        """
        self._working_s = working_s
        if self._failures and self._is_full:
            self._alive_at = now
        elif working_s and self._fails_for_long(now):
            self.suspect_outage(now)

    def _fails_for_long(self, now: float) -> bool:
        failing_s = now - self._nothing_since
        return self._failures >= _MIN_FAILURES and failing_s >= max(_MIN_FAILING_S, 3 * self._latency_s)

    @property
    def _is_full(self) -> bool:
        longest_s = max(_MIN_WORK_S, 10 * self._latency_s) if self._ever_answered else math.inf
        return 0 < self._working_s <= longest_s and self._only_refused

    def suspect_outage(self, now: float) -> None:
        """Open the circuit, unless the model is full: a tile is about to fail, and no request is answered."""
        if self.state == "closed" and not self._is_full:
            self._failing_since = self._failing_since if self._failures else now
            self.state, self._opened_at, self._next_probe_at, self._outage_counted = "open", now, now, False

    def start_probe(self, now: float) -> bool:
        """Return whether the caller must probe the model now; if so, record that it does."""
        self._check_timeout(now)
        if self.state != "open" or self.stop_reason or now < self._next_probe_at:
            return False
        self._next_probe_at = now + _PROBE_LOST_S
        return True

    def lose_probe(self) -> None:
        """Record that the process that was to probe is gone: the next one that reports probes at once."""
        self._next_probe_at = -math.inf

    def record_probe(self, now: float, failure: str | None) -> None:
        """Record the result of a probe: a failure message, or None if the model is ready."""
        if self.state == "open":
            if failure is None:
                self.state = "trial"
            else:
                self.last_failure = failure
                self._count_outage()
                self._reopen(now)

    def _close(self, now: float) -> None:
        if self.state != "closed":
            self.state = "closed"
            self.open_s += now - self._opened_at if self._outage_counted else 0.0

    def _count_outage(self) -> None:
        if not self._outage_counted:
            self.outages, self._outage_counted = self.outages + 1, True

    def _reopen(self, now: float) -> None:
        pause = min(max(_MIN_PAUSE_S, _PAUSE_SHARE * (now - self._failing_since)), _MAX_PAUSE_S)
        self.state, self._next_probe_at = "open", now + pause
        self._check_timeout(now)

    def _check_timeout(self, now: float) -> None:
        if self.state == "closed" or self._is_full:
            return
        name, limit = self.timeout
        if now > self.gives_up_at and not self.stop_reason:
            self._count_outage()
            self.open_s += now - self._opened_at
            self.stop_reason = (
                f"no request to the model succeeded for {name}={limit:g} s; the last failure was: {self.last_failure}"
            )

    @property
    def timeout(self) -> tuple[str, float]:
        """Name and value of the option that limits this outage."""
        ready, outage = ("ready_timeout_s", self.ready_timeout_s), ("outage_timeout_s", self.outage_timeout_s)
        if self._ever_answered:
            return outage
        return min(ready, outage, key=lambda each: each[1]) if self._has_started else ready
