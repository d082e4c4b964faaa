"""One request, sent again while a retry is worthwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from geotile.endpoints.base import Endpoint, invoke_endpoint
from geotile.errors import EndpointError, EndpointUnreachable
from geotile.traffic.gate import Gate

_MAX_PAUSE_S = 60.0
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

    A retryable failure is retried up to ``retry_policy.retries`` times. Only failures of the tile count. While
    no other request is answered either, the failure is the model's: the circuit waits for the model, and
    attempts during the outage do not count. If the model is back and still fails the one request that is
    its trial, the failure counts for the tile again; a throttled trial counts only if no other request is left.

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
    """
    retries = endpoint.retry_policy.retries if retries is None else retries
    request = _Request(endpoint, gate, prepare, content_type, retries)
    try:
        # This loop does not use tenacity: which attempts count depends on other requests too, and each Retrying
        # holds a threading.local, whose destruction in the garbage collector deadlocks Python 3.11
        # (cpython #106883) under the profiler of Dask's workers.
        while True:
            try:
                return RequestOutcome(request.send_once(), request.attempts)
            except EndpointError as error:
                if not error.retryable or request.is_final(error):
                    raise
                gate.sleep(request.pause_s(error))
    except EndpointError as error:
        if gate.stop_reason and gate.stop_reason not in str(error):
            error = EndpointUnreachable(f"{error}; {gate.stop_reason}")
        error.attempts = request.attempts
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
    _outages: int = 0
    _sent_at: float = 0.0
    _failed_at: float = 0.0
    _previously_failed_at: float = 0.0
    _holds_slot: bool = False
    _failed_trials: int = 0

    def send_once(self) -> Sequence[Any]:
        """Wait for a slot and send the request once."""
        self.release()
        with self.gate.prepare_slot():
            tiles = self.prepare()
            self.gate.acquire()
            self._holds_slot, is_trial = True, self.gate.is_trial
            if self.gate.outages != self._outages and self.attempts:
                self._tile_failures = max(0, self._tile_failures - 1)  # the last failure belonged to an outage
            self._outages = self.gate.outages
            self.attempts += 1
            self._sent_at = time.monotonic()
            try:
                answers = invoke_endpoint(self.endpoint, tiles, self.content_type)
            except EndpointError as error:
                self._record_failure(error, is_trial)
                if not error.throttled:
                    self.release()
                raise
            except BaseException:
                self.release()
                raise
            self.gate.record_response(time.monotonic() - self._sent_at)
            self.release()
            return answers

    def _record_failure(self, error: EndpointError, is_trial: bool) -> None:
        self._previously_failed_at, self._failed_at = self._failed_at, time.monotonic()
        self._failed_trials += is_trial
        if error.retryable:
            self._tile_failures += 1
            if not error.local:
                self.gate.record_failure(error)
        else:
            self.gate.record_response(time.monotonic() - self._sent_at)

    def release(self) -> None:
        """Free the slot, if this request holds one."""
        if self._holds_slot:
            self._holds_slot = False
            self.gate.release()

    def is_final(self, error: EndpointError) -> bool:
        """Return whether the request must not be retried."""
        if self.gate.stop_reason:
            return True
        if self._tile_failures <= self.retries:
            return False
        all_fail = self.retries > 0 and self.gate.no_response_since(self._previously_failed_at)
        # The tile is at fault if it failed again although the model had just been probed successfully.
        tile_at_fault = self._failed_trials >= _MIN_FAILED_TRIALS and (self.gate.is_only_request or not error.throttled)
        if all_fail and not tile_at_fault and not error.local:
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
        max_pause = self.endpoint.retry_policy.backoff_s * 2 ** min(self.attempts, 30)
        return random.uniform(0, min(_MAX_PAUSE_S, max_pause))
