"""Runs that were cancelled in this process: nothing more is read or sent for them, and their requests are aborted."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from geotile.core.registry import Registry


class WorkerLeft(Exception):
    """Raised in a task of a Dask worker that has left its cluster: another worker computes the task again."""


class _Cancellation(NamedTuple):
    reason: str
    abandoned: bool


class _Watchers:
    """What is called when a run is cancelled, by run."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: dict[str, list[Callable[[], None]]] = {}


_cancelled = Registry[str, _Cancellation](100)
_watchers = _Watchers()
os.register_at_fork(after_in_child=_watchers.__init__)  # type: ignore[misc]  # another thread may have held the lock
_thread = threading.local()


def cancel_run(run: str, reason: str, *, abandoned: bool = True) -> None:
    """Record that a run was cancelled, and why. If it was cancelled before, the first reason is kept.

    Parameters
    ----------
    run : str
        Name of the run.
    reason : str
        Reason of the failure of each tile that has no answer yet.
    abandoned : bool, default True
        Whether nobody wants the results of the run any more; False if it ends by itself, with what it has.

    Examples
    --------
    >>> cancel_run("a run", "the endpoint does not exist")
    >>> cancel_reason("a run"), cancel_reason("another run")
    ('the endpoint does not exist', None)
    """
    _cancelled.get(run, lambda: _Cancellation(reason, abandoned))
    with _watchers.lock:
        calls = list(_watchers.calls.get(run, ()))
    for call in calls:
        call()


def cancel_reason(run: str) -> str | None:
    """Return why a run was cancelled, or None if it was not."""
    found = _cancelled.peek(run)
    return None if found is None else found.reason


def is_abandoned(run: str) -> bool:
    """Return whether a run was cancelled and nobody wants its results any more."""
    found = _cancelled.peek(run)
    return found is not None and found.abandoned


@contextmanager
def when_cancelled(run: str, call: Callable[[], None]) -> Iterator[None]:
    """Call a function if a run is cancelled while the block runs, or was cancelled before.

    Examples
    --------
    >>> with when_cancelled("a third run", lambda: print("stop")):
    ...     cancel_run("a third run", "the run was stopped")
    stop
    """
    with _watchers.lock:
        _watchers.calls.setdefault(run, []).append(call)
    try:
        if cancel_reason(run) is not None:
            call()
        yield
    finally:
        with _watchers.lock:
            _watchers.calls[run].remove(call)
            if not _watchers.calls[run]:
                del _watchers.calls[run]


@contextmanager
def working_for(run: str) -> Iterator[None]:
    """Let the requests of this thread belong to a run, so that they are aborted when it is cancelled."""
    before = getattr(_thread, "run", None)
    _thread.run = run
    try:
        yield
    finally:
        _thread.run = before


def current_run() -> str | None:
    """Return the run that this thread works for, or None."""
    run: str | None = getattr(_thread, "run", None)
    return run
