"""Progress in tiles, from wherever the tasks run to the one who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from geotile.errors import ArgumentError
from geotile.scheduler import active_client, this_worker

ProgressCallback = Callable[[int, int], None]
_listeners: dict[str, Callable[[], None]] = {}


def tile_reporter(run: str) -> Callable[[], None]:
    """Return what tells the run's listener that a tile is done.

    Called where the task runs: Dask knows its worker in the task's own thread alone.
    """
    if not run.startswith("watched"):
        return _nobody_listens
    if run in _listeners:
        return _listeners[run]
    worker = this_worker()
    if worker is None:
        return _nobody_listens  # a process pool has no way back
    return lambda: worker.log_event(run, 1)


def _nobody_listens() -> None:
    """Do nothing."""


@contextmanager
def listening(run: str, progress: bool | ProgressCallback | None, total: int) -> Iterator[None]:
    """Call ``progress(done, total)`` for every tile of a run; True draws a bar in a terminal."""
    if progress is None or progress is False:
        yield
        return
    if progress is True:
        with _bar(total) as callback, listening(run, callback, total):
            yield
        return
    if not callable(progress):
        raise ArgumentError(f"progress={progress!r} must be True, None or a callable (done, total)")
    done, lock, call = 0, Lock(), progress

    def step() -> None:
        nonlocal done
        with lock:
            if done < total:
                done += 1
                call(done, total)

    _listeners[run] = step
    client = active_client()
    if client is not None:
        client.subscribe_topic(run, lambda event: step())
    call(0, total)
    try:
        yield
        with lock:
            if done < total:  # a cluster's last events are still on their way
                done = total
                call(total, total)
    finally:
        del _listeners[run]
        if client is not None:
            client.unsubscribe_topic(run)


@contextmanager
def _bar(total: int) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("tiles"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("tiles", total=total)
        yield lambda done, _: bar.update(task, completed=done)
