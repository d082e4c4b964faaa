"""One request, sent again while a retry is worthwhile."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from geotile.core.cancellation import WorkerLeft
from geotile.endpoints.base import Endpoint, invoke_endpoint
from geotile.errors import EndpointError, EndpointUnreachable
from geotile.traffic.gate import Gate

_MAX_PAUSE_S = 60.0  # that a server can ask for
_MAX_BACKOFF_S = 20.0  # as in botocore; outages, which last longer, are waited for by the circuit
_MAX_HELD = 2  # failures of a tile while it keeps its slot: more are not those of a full server, as others are answered
_MAX_UNSENT = 100  # requests of a tile that no server receives, while others are answered
_MIN_FAILED_TRIALS = 2  # that a tile needs to fail during an outage: one failed trial may belong to the outage's end


@dataclass(frozen=True)
class RequestOutcome:
    """Result of a request that succeeded."""

    answers: Sequence[Any]
    """What the endpoint returned for each tile."""
    attempts: int
    """Number of requests that were sent."""


def send_with_retries(
    endpoint: Endpoint, gate: Gate, prepare: Callable[[], Sequence[Any]], content_type: str, retries: int | None = None
) -> RequestOutcome:  # fmt: skip
    """Send one tile, or one batch: wait for a slot, send the request, and retry it if that is worthwhile.

    A retryable failure is retried up to ``retry_policy.retries`` times.

    Only failures of the tile count: those after which any other request, or the gate's control, was sent and answered.
    Until then it is open whose a failure is; if that goes on for as many as the tile has retries, the circuit opens,
    waits for the model and sends the control. Failures during an outage do not count, nor do requests that no server
    has received. In a process that has no control, since the model has answered it nothing, a tile fails once its
    retries are used up and two trials have failed, if other processes were answered or no other request is left.

    Parameters
    ----------
    endpoint : Endpoint
    gate : Gate
    prepare : callable
        Returns the tiles as `Endpoint.invoke` takes them. It is called for each attempt, so that a request
        that waits holds no memory.
    content_type : str
    retries : int, optional
        Maximum number of retries. By default the endpoint's ``retry_policy.retries``.

    Returns
    -------
    RequestOutcome

    Raises
    ------
    EndpointError
        The last failure; its ``attempts`` is the number of requests that were sent.
    WorkerLeft
        If this worker has left the cluster.
    """
    retries = endpoint.retry_policy.retries if retries is None else retries
    request = _Request(endpoint, gate, prepare, content_type, retries)
    try:
        # This loop does not use tenacity: which attempts count depends on other requests too, and each Retrying
        # holds a threading.local, whose destruction in the garbage collector deadlocks Python 3.11
        # (cpython #106883) under the profiler of Dask's workers.
        while True:
            try:
                answers = request.send_once()
                return RequestOutcome(answers, request.attempts + gate.experience.take_controls_sent())
            except EndpointError as error:
                if not error.retryable or request.is_final(error):
                    raise
                gate.sleep(request.pause_s(error))
    except EndpointError as error:
        if gate.worker_left:
            raise WorkerLeft(gate.stop_reason) from None  # another worker asks for the tile again
        if gate.stop_reason and gate.stop_reason not in str(error):
            error = EndpointUnreachable(f"{error}; {gate.stop_reason}")
        error.attempts = request.attempts + gate.experience.take_controls_sent()
        raise error from None
    finally:
        request.release()


@dataclass
class _Request:
    endpoint: Endpoint
    gate: Gate
    prepare: Callable[[], Sequence[Any]]
    content_type: str
    retries: int
    attempts: int = 0
    _tile_failures: int = 0  # failures that count for the tile, not for the model
    _open_failures: int = 0  # failures of which is not known yet whose they are: nothing has been answered since
    _unsent: int = 0  # requests that no server has received
    _failures_in_a_row: int = 0  # since the last outage
    _forgiven: int = 0  # failures that counted for the tile, and then for an outage
    _outages: int = 0
    _sent_at: float = 0.0
    _failed_at: float = 0.0
    _holds_slot: bool = False
    _failed_trials: int = 0

    def send_once(self) -> Sequence[Any]:
        """Wait for a slot and send the request once."""
        self.release()
        with self.gate.prepare_slot():
            tiles = self.prepare()
            self.gate.acquire()
            self._holds_slot, is_trial = True, self.gate.is_trial
            self._settle()
            self.attempts += 1
            self._sent_at = time.monotonic()
            try:
                with self.gate.experience.sending():
                    answers = invoke_endpoint(self.endpoint, tiles, self.content_type)
            except EndpointError as error:
                self._record_failure(error, is_trial)
                if not error.throttled or self._tile_failures > _MAX_HELD:
                    self.release()
                raise
            except BaseException:
                self.release()
                raise
            self.gate.record_response(time.monotonic() - self._sent_at)
            self.gate.experience.record_success(self.prepare)
            self.release()
            return answers

    def _settle(self) -> None:
        """Decide whose the open failures were, once any request has been answered since.

        Those of an outage are the model's, and so is the failure at its beginning; but that is not forgiven for ever,
        since the tile can be the cause.
        """
        if self.gate.outages != self._outages:
            self._outages, self._open_failures, self._failures_in_a_row = self.gate.outages, 0, 0
            if self._tile_failures and self._forgiven < max(1, self.retries):
                self._tile_failures, self._forgiven = self._tile_failures - 1, self._forgiven + 1
        elif self.gate.experience.answered_since(self._failed_at):
            self._tile_failures, self._open_failures = self._tile_failures + self._open_failures, 0

    def _record_failure(self, error: EndpointError, is_trial: bool) -> None:
        before, self._failed_at = self._failed_at or self._sent_at, time.monotonic()
        self._failed_trials += is_trial
        self._failures_in_a_row += 1
        if error.retryable:
            if error.unsent:
                self._unsent += 1
            elif error.local or self.gate.experience.answered_since(before):
                self._tile_failures += 1
            else:
                self._open_failures += 1
            if not error.local:
                self.gate.record_failure(error, of_trial=is_trial, times=self._failures_in_a_row)
        else:
            self.gate.record_response(time.monotonic() - self._sent_at)

    def release(self) -> None:
        """Free the slot, if this request holds one."""
        if self._holds_slot:
            self._holds_slot = False
            self.gate.release()

    def is_final(self, error: EndpointError) -> bool:
        """Return whether the request must not be retried."""
        if self.gate.stop_reason or self._unsent > _MAX_UNSENT:
            return True
        if self._tile_failures + self._open_failures + self._unsent <= self.retries:
            return False
        # Without a control, tiles are trials: one that fails two is at fault, if others were answered or none is left.
        seen = self.gate.experience
        may_blame = self.gate.is_only_request or (seen.answered_since(-math.inf) and not error.throttled)
        tile_at_fault = seen.control is None and self._failed_trials >= _MIN_FAILED_TRIALS and may_blame
        if self.retries and not tile_at_fault and (self._open_failures or self._tile_failures <= self.retries):
            self.gate.suspect_outage()
            return False
        return True

    def pause_s(self, error: EndpointError) -> float:
        """Return the delay before the next attempt: the endpoint's Retry-After, else exponential with full jitter.

        A throttled request keeps its slot during the pause, so that no other request is throttled in its place.
        (Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.)
        """
        if error.retry_after_s is not None:
            return min(error.retry_after_s, _MAX_PAUSE_S)
        max_pause = self.endpoint.retry_policy.backoff_s * 2 ** min(self._failures_in_a_row, 30)
        return random.uniform(0, min(_MAX_BACKOFF_S, max_pause))
