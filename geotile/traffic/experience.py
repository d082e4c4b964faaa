"""What a process has seen of the tiles of its run: one that the model answers, and how many attempts are worthwhile."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

_TRIED_IN_FULL = 3  # tiles that fail after all their retries before others get fewer attempts
_MIN_ATTEMPTS = 3  # that each tile gets nevertheless


class Experience:
    """Thread-safe.

    Examples
    --------
    A tile has been answered by its second attempt, and three have not been answered by any:

    >>> seen = Experience()
    >>> seen.record_success([b"tile"], attempts=2)
    >>> for _ in range(3):
    ...     seen.record_tried_in_full()
    >>> seen.control, seen.worthwhile_attempts
    ([b'tile'], 4)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: Sequence[Any] | None = None
        self._controls_sent = self._most_attempts = self._tried_in_full = 0

    def record_success(self, tiles: Sequence[Any], attempts: int) -> None:
        """Record that the tiles of a request were answered by one of its attempts."""
        with self._lock:
            self._control = self._control if self._control is not None else tiles
            self._most_attempts = max(self._most_attempts, attempts)

    def record_tried_in_full(self) -> None:
        """Record that a tile has failed after all its retries, though other tiles were answered."""
        with self._lock:
            self._tried_in_full += 1

    def record_control_sent(self) -> None:
        """Record that the control was sent once more."""
        with self._lock:
            self._controls_sent += 1

    @property
    def control(self) -> Sequence[Any] | None:
        """Tiles of the first request that was answered: if it fails later, it is not because of what is in them."""
        return self._control

    @property
    def worthwhile_attempts(self) -> float:
        """Number of attempts after which a tile is given up: infinity, until some were tried in full for nothing.

        Then it is twice as many as have helped any tile so far.
        """
        with self._lock:
            if self._tried_in_full < _TRIED_IN_FULL:
                return math.inf
            return max(_MIN_ATTEMPTS, 2 * self._most_attempts)

    def take_controls_sent(self) -> int:
        """Return how often the control was sent since the last call."""
        with self._lock:
            sent, self._controls_sent = self._controls_sent, 0
            return sent
