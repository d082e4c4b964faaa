"""The rate at which jobs are inspected that cannot run soon, so that the running jobs get the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

_SHARE = 0.1  # of one core, while the process is busy with other things
_BUSY = 0.6  # of one core: Python code of all threads shares one
_WINDOW_S = 1.0  # over which it is measured
_MAX_PAUSE_S = 5.0


class InspectionPace:
    """Decides when the inspection of a job that cannot run soon may begin.

    Only one runs at a time: several would take so much of the processor that the process would not look busy with
    anything else. In a busy process these inspections take a tenth of a core.

    Examples
    --------
    >>> pace = InspectionPace()
    >>> with pace.counted():
    ...     pass
    >>> pace.allows_more()
    True
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inspected_s = 0.0  # CPU time of all inspections
        self._paused_until = 0.0
        self._since, self._others_s = time.monotonic(), self._others()
        self._is_busy = False
        self._began: dict[int, float] = {}  # when the inspections began that go on, by thread

    def _others(self) -> float:
        """Return the CPU time of this process without that of the inspections, in seconds."""
        return time.process_time() - self._inspected_s

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the CPU time of an inspection in this thread."""
        began = time.thread_time()
        with self._lock:
            self._began[get_ident()] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._began[get_ident()]
                spent = time.thread_time() - began
                self._inspected_s += spent
                now, pause_s = time.monotonic(), (1 / _SHARE - 1) * spent
                self._paused_until = min(max(now, self._paused_until) + pause_s, now + _MAX_PAUSE_S)

    def allows_more(self) -> bool:
        """Return whether the inspection of a job that cannot run soon may begin."""
        now = time.monotonic()
        with self._lock:
            if now - self._since >= _WINDOW_S:
                others = self._others()
                self._is_busy = others - self._others_s > _BUSY * (now - self._since)
                self._since, self._others_s = now, others
            if any(now - began < _MAX_PAUSE_S for began in self._began.values()):  # longer ones wait for a network
                return False
            return not self._is_busy or now > self._paused_until
