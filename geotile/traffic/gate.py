"""The gate that a process's tile threads pass before they send a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import uuid4

from geotile.core.cancellation import WorkerLeft, cancel_run
from geotile.core.daemon_pool import DaemonPool
from geotile.errors import EndpointError, EndpointUnreachable
from geotile.traffic.asking import failure_of_control, failure_of_probe
from geotile.traffic.coordinator import Allowance, GateReport
from geotile.traffic.experience import Experience
from geotile.traffic.limit import Tally

_log = logging.getLogger(__name__)
_PREPARED_AHEAD = 2  # requests prepared beyond those in flight, so that a free slot is used at once
Link = Callable[[GateReport], Allowance]


class Gate:
    """One run's gate in one process.

    Parameters
    ----------
    link : callable
        ``link(report) -> allowance``: sends a report to the coordinator.
    probe : callable
        Raises EndpointError if the model is not ready.
    send : callable
        ``send(tiles)``: sends one request, once; raises EndpointError.
    run : str
        Name of the run.
    worker : str, optional
        Address of the Dask worker that this process is.
    """

    def __init__(
        self, link: Link, probe: Callable[[], None], send: Callable[[Sequence[Any]], Any], run: str,
        worker: str | None = None,
    ) -> None:  # fmt: skip
        self._link, self._probe, self._send, self._run, self._worker = link, probe, send, run, worker
        self._name, self._lock = uuid4().hex, threading.Lock()
        self._can_prepare, self._can_send = threading.Condition(self._lock), threading.Condition(self._lock)
        self._answered, self._stopped = threading.Condition(self._lock), threading.Condition(self._lock)
        self._wake_up, self._allowance, self.experience = threading.Event(), Allowance(cap=0), Experience()
        self._wanted = self._preparing = self._in_flight = 0
        self._tally = Tally(reports=0, busy=0)
        self._suspects_outage = self._trial_failed = self._reporting = False
        self._probe_result: tuple[str | None] | None = None
        self._stop_reason: str | None = None
        self._pool: DaemonPool | None = None

    def thread_pool(self, max_threads: int) -> DaemonPool:
        """Return the run's own tile threads, within `expecting`. They end when no requests are left here.

        Runs do not share these threads. If they did, all threads could wait here for a slot that another run holds
        but has no thread to use: forever if both runs use one endpoint, or for the responses of the slower endpoint
        if they use two.
        """
        with self._lock:
            if self._pool is None:
                self._pool = DaemonPool(max_threads, "geotile-tile")
            return self._pool

    @property
    def is_trial(self) -> bool:
        """Whether the request in flight is the trial that decides whether the outage is over."""
        return self._allowance.state == "trial"

    @property
    def is_only_request(self) -> bool:
        """Whether only one request is left in the run, over all processes."""
        return self._allowance.is_only_request

    @property
    def outages(self) -> int:
        """Number of outages so far."""
        return self._allowance.outages

    @property
    def stop_reason(self) -> str | None:
        """Reason why no more requests are sent in this run; None while they are."""
        return self._stop_reason

    @property
    def worker_left(self) -> bool:
        """Whether this process is a worker that has left the cluster."""
        return self._allowance.worker_left

    @property
    def idle(self) -> bool:
        """Whether no requests are expected here."""
        return not self._reporting

    def stop(self, reason: str, *, abandoned: bool = True) -> None:
        """Let no more requests pass, and abort those in flight; `abandoned` if nobody wants the run's results."""
        with self._lock:
            self._stop(reason, abandoned)

    @contextmanager
    def expecting(self, requests: int) -> Iterator[Callable[[], None]]:
        """Announce requests; the caller calls the yielded function once for each request that is complete."""
        left = requests

        def done() -> None:
            nonlocal left
            with self._lock:
                if left > 0:  # else the caller did not wait for this one, and it has been counted
                    left -= 1
                    self._wanted -= 1

        with self._lock:
            self._wanted += requests
            if not self._reporting:
                self._reporting = True
                threading.Thread(target=self._report_until_idle, name="geotile-gate", daemon=True).start()
        try:
            yield done
        finally:
            with self._lock:
                self._wanted -= left
                left = 0
            self._wake_up.set()

    @contextmanager
    def prepare_slot(self) -> Iterator[None]:
        """Wait for a slot to prepare a request, or raise as `check_open` does: a prepared request takes memory."""
        with self._lock:
            self._can_prepare.wait_for(
                lambda: self._stop_reason or self._preparing < self._allowance.cap + _PREPARED_AHEAD
            )
            self.check_open()
            self._preparing += 1
        try:
            yield
        finally:
            with self._lock:
                self._preparing -= 1
                self._can_prepare.notify()

    def acquire(self) -> None:
        """Wait until a request may be sent, or raise as `check_open` does."""
        with self._lock:
            self._can_send.wait_for(lambda: self._stop_reason or (self._has_room and not self._tries_control))
            self.check_open()
            self._in_flight += 1

    def check_open(self) -> None:
        """Check that requests may still be sent.

        Raises
        ------
        WorkerLeft
            If this process is a worker that has left the cluster.
        EndpointUnreachable
            If the run sends no more requests.
        """
        if self._stop_reason:
            raise (WorkerLeft if self.worker_left else EndpointUnreachable)(self._stop_reason)

    @property
    def _has_room(self) -> bool:
        return self._in_flight < self._allowance.cap

    @property
    def _tries_control(self) -> bool:
        return self.is_trial and self.experience.control is not None and not self.experience.control_failed

    def release(self) -> None:
        """Free the slot of a request in flight."""
        with self._lock:
            self._in_flight -= 1
            self._can_send.notify()

    def record_response(self, latency_s: float) -> None:
        """Record a response."""
        self.experience.record_response(time.monotonic() - latency_s)
        with self._lock:
            self._tally += Tally(answered=1, latency_s=latency_s, latency_s2=latency_s**2, reports=0, busy=0)
            self._answered.notify_all()
        if self._allowance.state != "closed":
            self._wake_up.set()

    def record_failure(self, error: EndpointError, *, of_trial: bool, of_control: bool = False, times: int = 1) -> None:
        """Record a retryable failure, of a tile that failed so many `times`, or of the control; it may be the trial."""
        full = error.throttled or error.timed_out
        tally = Tally(throttled=int(full), failed=int(not full), starved=int(full and times > 1), reports=0, busy=0)
        self.experience.record_failure(error, of_control)
        with self._lock:
            self._tally += tally
            self._trial_failed |= of_trial
        self._wake_up.set()

    def suspect_outage(self) -> None:
        """Report that the model seems to fail, not a single tile."""
        with self._lock:
            self._suspects_outage = True
        self._wake_up.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than the run lasts, and keep no thread from other tiles while these are answered."""
        began = time.monotonic()
        with self._lock:
            self._answered.wait_for(lambda: self._stop_reason or self.experience.answered_since(began), seconds)
        left = began + seconds - time.monotonic()
        if self._stop_reason or left <= 0:
            return
        with self._pool.away() if self._pool else nullcontext(), self._lock:
            self._stopped.wait_for(lambda: self._stop_reason, left)

    def _report_until_idle(self) -> None:
        """Exchange reports and allowances until no request is left and the share has been given back."""
        while True:
            self._wake_up.clear()
            report = self._make_report()
            try:
                allowance = self._link(report)
            except Exception as error:  # the link can fail in any way, and tile threads must not wait forever
                with self._lock:
                    if self._wanted == 0:  # the cluster closed just after the last tile
                        self._become_idle()
                        return
                _log.exception("the coordinator of the run cannot be reached, or failed")
                what = "lost the connection to" if isinstance(error, OSError) else "got an error from"
                reason = f"this worker {what} the run's coordinator: {type(error).__name__}: {error}"
                self.stop(reason, abandoned=False)
                allowance = Allowance(cap=0)
            previous_cap = self._apply(allowance)
            with self._lock:
                if report.wanted == report.in_flight == previous_cap == self._wanted == 0:
                    self._become_idle()
                    return
            if report.wanted == report.in_flight == 0 < previous_cap:
                continue  # the next report gives the share back
            if allowance.probe:
                self._probe_result = (failure_of_probe(self._probe, self._run),)
            elif self._tries_control and self._has_room:
                self._send_control()
            elif self._wake_up.wait(allowance.next_report_s):
                time.sleep(allowance.next_report_s / 10)  # so that similar events go into the same report

    def _become_idle(self) -> None:
        self._reporting, pool, self._pool = False, self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _make_report(self) -> GateReport:
        with self._lock:
            seen, busy = self.experience, int(self._wanted > self._in_flight >= self._allowance.cap)
            report = GateReport(
                process=self._name, worker=self._worker, wanted=self._wanted, in_flight=self._in_flight,
                tally=self._tally + Tally(busy=busy), consecutive_failures=seen.consecutive_failures,
                last_failure=seen.last_failure, models_fault=seen.models_fault,
                model_started=seen.model_started, probe_result=self._probe_result,
                suspects_outage=self._suspects_outage, answered_s_ago=seen.answered_s_ago,
                has_control=seen.control is not None, trial_failed=self._trial_failed, working_s=seen.working_s,
            )  # fmt: skip
            self._tally, self._probe_result = Tally(reports=0, busy=0), None
            self._suspects_outage = self._trial_failed = False
            return report

    def _apply(self, allowance: Allowance) -> int:
        """Apply an allowance; return the previous cap."""
        with self._lock:
            previous_cap, self._allowance = self._allowance.cap, allowance
            self.experience.record_others_answered(time.monotonic() - allowance.answered_s_ago)
            if allowance.stop_reason:
                self._stop(allowance.stop_reason, allowance.abandoned)
            elif allowance.worker_left:  # the run goes on, perhaps in other workers of this process
                self._stop_reason = self._stop_reason or "this worker has left the cluster"
            self._notify()
            return previous_cap

    def _stop(self, reason: str, abandoned: bool) -> None:
        self._stop_reason = self._stop_reason or reason
        self._notify()
        cancel_run(self._run, reason, abandoned=abandoned)

    def _notify(self) -> None:
        for condition in (self._can_prepare, self._can_send, self._answered, self._stopped):
            condition.notify_all()

    def _send_control(self) -> None:
        """Send the control as the trial. Threads with tiles wait meanwhile, or until a tile's next attempt."""
        with self._lock:
            self._in_flight += 1
        self.experience.record_control_sent()
        sent_at = time.monotonic()
        failure = failure_of_control(self._send, self.experience.control or (), self._run)
        if failure is None:
            self.record_response(time.monotonic() - sent_at)
        else:
            self.record_failure(failure, of_trial=True, of_control=True)
        self.release()
