"""What a process has seen of the tiles of its run: one that the model answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any


class Experience:
    """Thread-safe.

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
