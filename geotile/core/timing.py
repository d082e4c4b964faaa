"""Seconds of CPU that the current thread spends in each stage; time spent waiting does not count.

Stages nest: the time of an inner stage does not count for the outer one. The seconds are kept in the
thread until `take_timings` returns them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import thread_time
from typing import Literal

Stage = Literal["decode", "cut", "encode", "send", "model", "parse", "merge", "rows", "write"]
Timing = dict[str, float]
_thread = threading.local()


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Add the CPU time of the block to a stage."""
    started, outer = thread_time(), getattr(_thread, "inner", 0.0)
    _thread.inner = 0.0
    try:
        yield
    finally:
        elapsed = thread_time() - started
        seconds: Timing = _thread.__dict__.setdefault("seconds", {})
        seconds[stage] = seconds.get(stage, 0.0) + elapsed - _thread.inner
        _thread.inner = outer + elapsed


def take_timings() -> Timing:
    """Return the seconds by stage of this thread since the last call.

    Examples
    --------
    >>> _ = take_timings()
    >>> with timed("cut"):
    ...     _ = sum(range(1000))
    >>> list(take_timings()), take_timings()
    (['cut'], {})
    """
    seconds: Timing = _thread.__dict__.pop("seconds", {})
    return seconds


def sum_timings(*timings: Mapping[str, float]) -> Timing:
    """Return the sums of several timings by stage."""
    total: Timing = {}
    for timing in timings:
        for stage, seconds in timing.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
