"""Progress, from wherever the tasks run to the one who waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, NamedTuple

from geotile.core.dask_info import active_client, this_worker
from geotile.errors import ArgumentError
from geotile.public import public

_TELL_S = 0.5  # how often a process tells what it has done
_SHOW_S = 0.1
_WINDOW_S = 10.0  # over which the rate of requests is taken


class Counts(NamedTuple):
    """What was done."""

    tiles: int = 0
    requests: int = 0
    detections: int = 0
    failures: int = 0

    def plus(self, more: Counts) -> Counts:
        """Add up."""
        return Counts(*(a + b for a, b in zip(self, more, strict=True)))


@public
@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: what a callback gets.

    Examples
    --------
    >>> Progress(tiles=200, done=50, kept=10, seconds=20.0).eta_s
    75.0
    """

    tiles: int
    """To be done in all."""
    done: int = 0
    """Tiles that are done, those kept from an earlier run among them."""
    kept: int = 0
    """Tiles that were done in an earlier run."""
    requests: int = 0
    """Sent in this run."""
    detections: int = 0
    """Found in this run, before merging."""
    failures: int = 0
    """Tiles that failed in this run."""
    seconds: float = 0.0
    """Since the run began."""
    requests_per_s: float = 0.0
    """Over the last ten seconds."""

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest would take at the pace so far; None before the first tile."""
        here = self.done - self.kept
        return (self.tiles - self.done) * self.seconds / here if here > 0 else None

    def __str__(self) -> str:
        eta = "" if self.eta_s is None else f", {clock(self.eta_s)} to go"
        return (
            f"{self.done:,} of {self.tiles:,} tiles, {self.requests_per_s:,.1f} requests/s, "
            f"{self.detections:,} detections, {self.failures:,} failed{eta}"
        )


ProgressCallback = Callable[[Progress], None]


class Reporter:
    """What a region's tiles tell their run's listener."""

    def __init__(self, tell: Callable[[Counts], None] | None, every_s: float) -> None:
        self._tell, self._every_s, self._lock = tell, every_s, Lock()
        self._untold, self._told = Counts(), time.monotonic()

    def __call__(self, counts: Counts) -> None:
        """Count; tell, if it is time to."""
        if self._tell is None:
            return
        with self._lock:
            self._untold = self._untold.plus(counts)
            if time.monotonic() - self._told < self._every_s:
                return
        self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        with self._lock:
            untold, self._untold, self._told = self._untold, Counts(), time.monotonic()
        if self._tell is not None and any(untold):
            self._tell(untold)


_listeners: dict[str, Callable[[Counts], None]] = {}


def tile_reporter(run: str) -> Reporter:
    """Return what tells the run's listener of tiles that are done.

    Called where the task runs: Dask knows its worker in the task's own thread alone.
    """
    if not run.startswith("watched"):
        return Reporter(None, 0)
    if run in _listeners:
        return Reporter(_listeners[run], 0)
    worker = this_worker()
    if worker is None:
        return Reporter(None, 0)  # a process pool has no way back
    return Reporter(lambda counts: worker.log_event(run, tuple(counts)), _TELL_S)


@dataclass
class _Watch:
    """Adds up what was told; shows it now and then."""

    show: ProgressCallback
    state: Progress
    began: float = field(default_factory=time.monotonic)
    shown: float = 0.0
    lock: Any = field(default_factory=Lock)
    past: list[tuple[float, int]] = field(default_factory=list)

    def hear(self, counts: Counts) -> None:
        """Add counts."""
        with self.lock:
            now = time.monotonic()
            state = self.state
            self.state = replace(
                state,
                done=min(state.done + counts.tiles, state.tiles),
                requests=state.requests + counts.requests,
                detections=state.detections + counts.detections,
                failures=state.failures + counts.failures,
            )
            if now - self.shown >= _SHOW_S:
                self._show(now)

    def end(self) -> None:
        """Show the last state."""
        with self.lock:
            self.state = replace(self.state, done=self.state.tiles)  # a cluster's last words may still be on their way
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        self.shown = now
        self.past = [*(each for each in self.past if now - each[0] < _WINDOW_S), (now, self.state.requests)]
        (then, before), (_, sent) = self.past[0], self.past[-1]
        rate = (sent - before) / (now - then) if now > then else 0.0
        self.state = replace(self.state, seconds=now - self.began, requests_per_s=rate)
        self.show(self.state)


@contextmanager
def listening(run: str, shows: list[ProgressCallback], tiles: int, kept: int) -> Iterator[None]:
    """Call back with the `Progress` of a run: at its beginning, at its end, and ten times a second at most."""
    if not shows:
        yield
        return

    def show(state: Progress) -> None:
        for each in shows:
            each(state)

    watch = _Watch(show, Progress(tiles=tiles, done=kept, kept=kept))
    _listeners[run] = watch.hear
    client = active_client()
    if client is not None:
        client.subscribe_topic(run, lambda event: watch.hear(Counts(*event[1])))
    show(watch.state)
    try:
        yield
        watch.end()
    finally:
        del _listeners[run]
        if client is not None:
            client.unsubscribe_topic(run)


def check_progress(progress: Any) -> None:
    """Refuse what is no progress.

    Raises
    ------
    ArgumentError
        If it is neither None, a bool nor a callable.
    """
    if progress not in (None, True, False) and not callable(progress):
        raise ArgumentError(f"progress={progress!r} must be True, None or a callable that takes a geotile.Progress")


@contextmanager
def shown(progress: bool | ProgressCallback | None) -> Iterator[list[ProgressCallback]]:
    """Return who is to be told: a callable, or for True a bar in a terminal and a table row in a notebook."""
    if not progress:
        yield []
    elif progress is not True:
        yield [progress]
    elif (cell := _notebook_cell()) is not None:
        yield [cell]
    else:
        with _bar() as bar:
            yield [bar]


def _notebook_cell() -> ProgressCallback | None:
    """Return what shows progress in a notebook's cell, by HTML alone; None elsewhere."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        return None
    shell = get_ipython()  # type: ignore[no-untyped-call]
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    handle = display(HTML(""), display_id=True)  # type: ignore[no-untyped-call]

    def show(state: Progress) -> None:
        handle.update(HTML(as_html(state)))  # type: ignore[no-untyped-call]

    return show


def as_html(state: Progress) -> str:
    """Return progress as a bar and a line of text."""
    return (
        f"<progress value='{state.done}' max='{max(1, state.tiles)}' style='width:24em'></progress> "
        f"<span style='font-family:monospace'>{state}</span>"
    )


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("tiles"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}")]
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("tiles", total=None, said="")

        def show(state: Progress) -> None:
            said = str(state).partition("tiles, ")[2]
            bars.update(task, total=state.tiles, completed=state.done, said=said)

        yield show


def clock(seconds: float) -> str:
    """Return seconds as hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
