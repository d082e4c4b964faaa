"""The health of a service: when each of its loops last turned, and what goes wrong in it.

::

    loop: turn ─▶ turn ─▶ turn          /healthz: 200, or 503 with the loops that have not turned lately
            │ error                     /metrics: loop_age_seconds, errors
            ▼
          logged, counted, and the next turn is put off (1 s, 2 s, ... 30 s)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from geotile.core.redact import redact
from geotile.errors import GeotileError, ServiceError

_log = logging.getLogger(__name__)
_MAX_DELAY_S = 30.0
MAX_AGE_S = 60.0  # of a loop, unless it says otherwise


@dataclass
class Errors:
    """Errors of one part of a service."""

    total: int = 0
    """Number of errors so far."""
    in_a_row: int = 0
    """Number of errors since the last success."""
    since: float = 0.0
    """Monotonic time of the first of these."""
    last: str = ""
    """Text of the last one, without secrets."""


class Health:
    """What the loops of a service do. Any thread may use it."""

    def __init__(self) -> None:
        self._ages: dict[str, tuple[Callable[[], float], float]] = {}
        self._turned: dict[str, float] = {}
        self._lock = threading.Lock()
        self.errors: dict[str, Errors] = {}
        """Errors, by the name of a loop or of a part such as "queue"."""

    def watch(self, name: str, age_s: Callable[[], float], max_age_s: float) -> None:
        """Hold ``age_s()``, the seconds since a loop last turned, against a maximum."""
        self._ages[name] = age_s, max_age_s

    def keep_turning(
        self, name: str, turn: Callable[[], object], stopped: threading.Event, max_age_s: float = MAX_AGE_S
    ) -> None:  # fmt: skip
        """Call ``turn()`` again and again until `stopped` is set."""
        self.watch_loop(name, max_age_s)
        while not stopped.is_set():
            self.turn(name, turn, stopped)

    def watch_loop(self, name: str, max_age_s: float = MAX_AGE_S) -> None:
        """Watch a loop that calls `turn`."""
        self._turned[name] = time.monotonic()
        self.watch(name, lambda: time.monotonic() - self._turned[name], max_age_s)

    def turn(self, name: str, turn: Callable[[], object], stopped: threading.Event) -> None:
        """Call ``turn()``; after an error of any kind wait before the next one, longer after each further error."""
        try:
            turn()
        except Exception as error:  # whatever it is, the loop must go on
            stopped.wait(self.failed(name, error))
        else:
            self.succeeded(name)
        self._turned[name] = time.monotonic()

    def failed(self, name: str, error: Exception) -> float:
        """Log and count an error; return the seconds to wait before the next attempt."""
        text = redact(str(error)) or type(error).__name__
        _log.error("%s: %s", name, text, exc_info=None if isinstance(error, GeotileError) else error)
        with self._lock:
            errors = self.errors.setdefault(name, Errors())
            if errors.in_a_row == 0:
                errors.since = time.monotonic()
            errors.total, errors.in_a_row, errors.last = errors.total + 1, errors.in_a_row + 1, text
        return float(min(_MAX_DELAY_S, 2.0 ** min(errors.in_a_row - 1, 10)))

    def succeeded(self, name: str) -> None:
        """Note that a part works."""
        if name in self.errors:
            self.errors[name].in_a_row = 0

    def ages_s(self) -> dict[str, float]:
        """Return the seconds since each loop last turned."""
        return {name: age_s() for name, (age_s, _) in list(self._ages.items())}

    def late(self) -> list[str]:
        """Return a line for each loop that has not turned lately; empty if all have."""
        return [
            f"{name}: has not turned for {age:.0f} s, at most {self._ages[name][1]:.0f} s are allowed"
            for name, age in self.ages_s().items()
            if age > self._ages[name][1]
        ]

    def failing(self) -> list[str]:
        """Return a line for each part whose last attempt failed."""
        return [
            f"{name}: {each.in_a_row} errors in {time.monotonic() - each.since:.0f} s, the last one: {each.last}"
            for name, each in list(self.errors.items())
            if each.in_a_row
        ]

    def raise_if_failing(self, timeout_s: float) -> None:
        """Raise an error if a part has failed for some time.

        Raises
        ------
        ServiceError
            If nothing but errors came from a part in the last `timeout_s` seconds.
        """
        for name, each in list(self.errors.items()):
            if each.in_a_row > 1 and time.monotonic() - each.since >= timeout_s:
                raise ServiceError(
                    f"{name}: {each.in_a_row} attempts failed in {timeout_s:g} s, the last one: {each.last}. Requests "
                    "that are not finished stay in the queue"
                )
