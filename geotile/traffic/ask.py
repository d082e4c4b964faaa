"""One request for its tiles, as often as it is worth it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from geotile.endpoints.base import Endpoint, invoked
from geotile.errors import EndpointError, EndpointUnreachable
from geotile.traffic.gate import Gate

_LONGEST_PAUSE_S = 60.0
_TRIALS = 2  # that a tile must fail in, where it failed when nobody was answered: one may be of the outage's end


@dataclass(frozen=True)
class Asked:
    """What came of a request."""

    answers: Sequence[Any]
    attempts: int


def ask(
    endpoint: Endpoint, gate: Gate, prepare: Callable[[], Sequence[Any]], content_type: str
) -> Asked:  # fmt: skip
    """Ask about one tile, or a batch: wait for a place, send, try again.

    A failure that may pass is tried again up to ``retry_policy.retries`` times. A failure that counts is
    one of the tile: while nobody else is answered either it is the model's, which the circuit waits
    for, and tries in an outage are not counted. Where the model is there, and still fails the one
    request that tries it, it is the tile's again; a refusal only if no other request is left.

    Parameters
    ----------
    endpoint : Endpoint
    gate : Gate
    prepare : callable
        Returns the tiles as `Endpoint.invoke` takes them; called for each try, so that what waits
        holds no memory.
    content_type : str

    Returns
    -------
    Asked

    Raises
    ------
    EndpointError
        The last failure; its ``attempts`` counts the requests.
    """
    request = _Request(endpoint, gate, prepare, content_type)
    try:
        # A loop of its own, not tenacity's: what counts as a try is not of one request alone; and each Retrying
        # holds a threading.local, whose end in the garbage collector locks Python 3.11 up (cpython #106883)
        # under the profiler of Dask's workers.
        while True:
            try:
                return Asked(request.once(), request.attempts)
            except EndpointError as error:
                if not error.retryable or request.is_enough(error):
                    raise
                gate.sleep(request.pause(error))
    except EndpointError as error:
        if gate.ended and gate.ended not in str(error):
            error = EndpointUnreachable(f"{error}; {gate.ended}")
        error.attempts = request.attempts
        raise error from None
    finally:
        request.leave()


@dataclass
class _Request:
    endpoint: Endpoint
    gate: Gate
    prepare: Callable[[], Sequence[Any]]
    content_type: str
    attempts: int = 0
    _counted: int = 0  # failures of the tile, not of the model
    _outages: int = 0
    _sent: float = 0.0
    _failed: float = 0.0
    _failed_before: float = 0.0
    _inside: bool = False
    _trials: int = 0  # failed ones

    def once(self) -> Sequence[Any]:
        self.leave()
        with self.gate.room():
            tiles = self.prepare()
            self.gate.enter()
            self._inside, trial = True, self.gate.trial
            if self.gate.outages != self._outages and self.attempts:
                self._counted = max(0, self._counted - 1)  # the last failure was of an outage
            self._outages = self.gate.outages
            self.attempts += 1
            self._sent = time.monotonic()
            try:
                answers = invoked(self.endpoint, tiles, self.content_type)
            except EndpointError as error:
                self._failed_before, self._failed = self._failed, time.monotonic()
                self._trials += trial
                if error.retryable:
                    self._counted += 1
                    self.gate.failed(error)
                else:
                    self.gate.answered(time.monotonic() - self._sent)
                if not error.throttled:
                    self.leave()
                raise
            except BaseException:
                self.leave()
                raise
            self.gate.answered(time.monotonic() - self._sent)
            self.leave()
            return answers

    def leave(self) -> None:
        if self._inside:
            self._inside = False
            self.gate.leave()

    def is_enough(self, error: EndpointError) -> bool:
        """Tell whether the tile is to be given up."""
        if self.gate.ended:
            return True
        retries = self.endpoint.retry_policy.retries
        if self._counted <= retries:
            return False
        all_fail = retries > 0 and self.gate.silent_since(self._failed_before)
        shown = self._trials >= _TRIALS and (self.gate.alone or not error.throttled)  # the model was there, and yet
        if all_fail and not shown:
            self.gate.suspect()
            return False
        return True

    def pause(self, error: EndpointError) -> float:
        """Seconds until the next try: what the endpoint asks for, else exponential with full jitter.

        A request that was refused keeps its place meanwhile, so that no other is refused in it.
        (Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.)
        """
        if error.retry_after_s is not None:
            return min(error.retry_after_s, _LONGEST_PAUSE_S)
        longest = self.endpoint.retry_policy.backoff_s * 2 ** min(self.attempts, 30)
        return random.uniform(0, min(_LONGEST_PAUSE_S, longest))
