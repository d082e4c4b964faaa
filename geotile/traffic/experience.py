"""What a process has seen of a run's model: responses, failures, and tiles that it answers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from geotile.errors import EndpointError

_SLOWER_THAN_A_REFUSAL_S = 0.25
_ERROR_OF_THE_MODEL = 500  # HTTP status; 502, 503 and 504 also come while a model starts, from what is before it


class Experience:
    """Thread-safe. Times are seconds of the monotonic clock.

    Examples
    --------
    >>> seen = Experience()
    >>> seen.record_success(lambda: [b"tile"])
    >>> seen.control
    [b'tile']
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: Sequence[Any] | None = None
        self._controls_sent = 0
        self._own_answered = self._others_answered = -math.inf  # when the last request that was answered was sent
        self._failing_since = math.inf
        self._out: list[float] = []  # when the requests were sent that have neither been answered nor failed
        self._longest_refusal_s = 0.0
        self.consecutive_failures = 0
        """Number of failures since the last response to a request that was sent after the first of them."""
        self.models_fault = True
        """Whether all of these show that the model cannot answer, whatever the tile."""
        self.last_failure = ""
        """Message of the last failure."""
        self.model_started = False
        """Whether a failure shows that the model has started."""
        self.control_failed = False
        """Whether the last failure is that of the control; then a tile makes the next trial."""

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Note that a request is out, as long as the block runs."""
        began = time.monotonic()
        with self._lock:
            self._out.append(began)
        try:
            yield
        except EndpointError as error:
            if error.throttled:
                with self._lock:
                    self._longest_refusal_s = max(self._longest_refusal_s, time.monotonic() - began)
            raise
        finally:
            with self._lock:
                self._out.remove(began)

    @property
    def working_s(self) -> float:
        """How long the model has worked on a request, in seconds; 0 if a refusal could still come."""
        with self._lock:
            out_s = time.monotonic() - min(self._out, default=math.inf)
            return out_s if out_s > 2 * self._longest_refusal_s + _SLOWER_THAN_A_REFUSAL_S else 0.0

    def record_response(self, sent_at: float) -> None:
        """Record a response. It shows that the model worked when the request was sent, not that it does now."""
        with self._lock:
            if sent_at > self._failing_since:
                self.consecutive_failures, self.models_fault, self.control_failed = 0, True, False
                self._failing_since = math.inf
            self._own_answered = max(self._own_answered, sent_at)

    def record_failure(self, error: EndpointError, of_control: bool) -> None:
        """Record a retryable failure, of a tile or of the control."""
        with self._lock:
            self._failing_since = min(self._failing_since, time.monotonic())
            self.consecutive_failures, self.last_failure = self.consecutive_failures + 1, str(error)
            self.control_failed = of_control
            self.models_fault = of_control or (self.models_fault and error.throttled)
            self.model_started |= error.http_status == _ERROR_OF_THE_MODEL

    def record_others_answered(self, sent_at: float) -> None:
        """Record that another process was answered a request that was sent at a time."""
        with self._lock:
            self._others_answered = max(self._others_answered, sent_at)

    def answered_since(self, moment: float) -> bool:
        """Return whether a request was answered that was sent after a time, as far as is known in this process."""
        return max(self._own_answered, self._others_answered) > moment

    @property
    def answered_s_ago(self) -> float:
        """Time since that one of this process's answered requests was sent which was sent last, in seconds."""
        return time.monotonic() - self._own_answered

    def record_success(self, prepare: Callable[[], Sequence[Any]]) -> None:
        """Record that the tiles of a request were answered; the first ones become the control."""
        if self._control is None:
            tiles = prepare()  # anew, since an endpoint may have changed what it was given
            with self._lock:
                self._control = tiles if self._control is None else self._control

    @property
    def control(self) -> Sequence[Any] | None:
        """Tiles of the first request that was answered: if it fails later, it is not because of what is in them."""
        return self._control

    def record_control_sent(self) -> None:
        """Record that the control was sent once more."""
        with self._lock:
            self._controls_sent += 1

    def take_controls_sent(self) -> int:
        """Return how often the control was sent since the last call."""
        with self._lock:
            sent, self._controls_sent = self._controls_sent, 0
            return sent
