"""The process's own time by step: seconds of the thread's CPU, waiting left out.

Steps nest: time in an inner one does not count for the outer. What was read off is kept in the
thread until `take_timings` takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import thread_time
from typing import Literal

Stage = Literal["decode", "cut", "encode", "send", "model", "parse", "merge"]
Timing = dict[str, float]
_thread = threading.local()


@contextmanager
def timed(name: Stage) -> Iterator[None]:
    """Count what the block costs under a name."""
    began, outer = thread_time(), getattr(_thread, "inner", 0.0)
    _thread.inner = 0.0
    try:
        yield
    finally:
        took = thread_time() - began
        seconds: Timing = _thread.__dict__.setdefault("seconds", {})
        seconds[name] = seconds.get(name, 0.0) + took - _thread.inner
        _thread.inner = outer + took


def take_timings() -> Timing:
    """Return the seconds of this thread since the last call.

    Examples
    --------
    >>> with timed("cut"):
    ...     _ = sum(range(1000))
    >>> list(take_timings()), take_timings()
    (['cut'], {})
    """
    seconds: Timing = _thread.__dict__.pop("seconds", {})
    return seconds


def sum_timings(*parts: Mapping[str, float]) -> Timing:
    """Add seconds up by step."""
    total: Timing = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total
