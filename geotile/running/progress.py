"""The progress of a run, sent from the processes of its tasks to the process that started it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Any, NamedTuple
from uuid import uuid4

from geotile.core.cancellation import is_abandoned
from geotile.core.dask_info import active_client, is_open, this_worker
from geotile.core.html_table import html_bar, html_card
from geotile.public import public
from geotile.traffic import waiting_for

_SEND_INTERVAL_S = 0.5  # between the reports of a worker
_SHOW_INTERVAL_S = 0.1  # between two calls of a callback
_TICK_S = 1.0  # after which a callback is called although nothing has happened
_RATE_WINDOW_S = 10.0  # for the rate of requests


ProgressCallback = Callable[["Progress"], None]


class Counts(NamedTuple):
    """Numbers of tiles that are done, and of their requests, detections and failures."""

    tiles: int = 0
    requests: int = 0
    detections: int = 0
    failures: int = 0
    kept: int = 0
    """Number of tiles among them that were done in an earlier run."""

    def add(self, other: Counts) -> Counts:
        """Return the sum of these and other counts."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


@public
@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run, as a progress callback gets it.

    Examples
    --------
    >>> Progress(tiles=200, done=50, kept=10, seconds=20.0).eta_s
    75.0
    """

    tiles: int
    """Number of tiles of the run."""
    done: int = 0
    """Number of tiles that are done, including those kept from an earlier run."""
    kept: int = 0
    """Number of tiles that were done in an earlier run."""
    requests: int = 0
    """Number of requests sent in this run."""
    detections: int = 0
    """Number of detections so far before merging, including those of kept tiles."""
    failures: int = 0
    """Number of tiles that failed so far, including kept ones that are not sent again."""
    seconds: float = 0.0
    """Seconds since the run started."""
    requests_per_s: float = 0.0
    """Rate of requests over the last ten seconds."""
    waiting_for: str = ""
    """Why no requests are sent, such as a model that does not answer; empty while they are."""

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the end of the run, at its rate so far; None before the first tile is done."""
        done_now = self.done - self.kept
        return (self.tiles - self.done) * self.seconds / done_now if done_now > 0 else None

    def __str__(self) -> str:
        eta = "" if self.eta_s is None or self.done >= self.tiles else f", {clock(self.eta_s)} to go"
        found = f"{self.detections:,} detections, " if self.detections else ""  # models of rasters find none
        return (
            f"{self.done:,} of {self.tiles:,} tiles, {self.requests_per_s:,.1f} requests/s, "
            f"{found}{self.failures:,} failed{eta}{', waiting for the model' if self.waiting_for else ''}"
        )

    def _repr_html_(self) -> str:
        state = "doubtful" if self.failures else "good"
        text = f"<div style='font-variant-numeric:tabular-nums'>{self}</div>"
        return html_card(f"geotile: {clock(self.seconds)}", html_bar(self.done / max(1, self.tiles), state) + text)


class Reporter:
    """Sender of the counts of a region's tiles to the listener of their run."""

    def __init__(self, send: Callable[[Counts], None] | None, interval_s: float) -> None:
        self._send, self._interval_s, self._lock = send, interval_s, Lock()
        self._unsent, self._sent_at = Counts(), time.monotonic()

    def __call__(self, counts: Counts) -> None:
        """Add counts, and send them if the interval has passed."""
        if self._send is None:
            return
        with self._lock:
            self._unsent = self._unsent.add(counts)
            if time.monotonic() - self._sent_at < self._interval_s:
                return
        self.flush()

    def flush(self) -> None:
        """Send the counts that have not been sent yet."""
        with self._lock:
            unsent, self._unsent, self._sent_at = self._unsent, Counts(), time.monotonic()
        if self._send is not None and any(unsent):
            self._send(unsent)


_listeners: dict[str, Callable[[Counts], None]] = {}
_WATCHED = "watched"  # at the beginning of a run's name: its tasks report their progress


def run_name(watched: bool) -> str:
    """Return a name for a run, which tells its tasks whether anybody watches its progress."""
    return f"{_WATCHED if watched else 'run'}-{uuid4().hex}"


def progress_reporter(run: str) -> Reporter:
    """Return a reporter that sends counts to the listener of a run, from the process of the task that calls it.

    Call it in the thread of the task: Dask knows the worker of a task only there.
    """
    if not run.startswith(_WATCHED):
        return Reporter(None, 0)
    if run in _listeners:
        return Reporter(_listeners[run], 0)
    worker = this_worker()
    if worker is None:
        return Reporter(None, 0)  # a pool of processes has no channel to the caller
    return Reporter(lambda counts: worker.log_event(run, tuple(counts)), _SEND_INTERVAL_S)


@dataclass
class _Tracker:
    """Sum of the counts of a run, which is passed to a callback from time to time, until the run is stopped."""

    run: str
    callback: ProgressCallback
    waiting_for: Callable[[], str]
    """Function that returns why the run sends no requests."""
    state: Progress
    started: float = field(default_factory=time.monotonic)
    shown_at: float = 0.0
    lock: Any = field(default_factory=Lock)
    history: list[tuple[float, int]] = field(default_factory=list)
    """Times and numbers of requests of the last ten seconds."""

    def add(self, counts: Counts) -> None:
        """Add counts. Tiles that end because the run was stopped are not done."""
        with self.lock:
            if is_abandoned(self.run):
                return
            now = time.monotonic()
            state = self.state
            self.state = replace(
                state,
                done=min(state.done + counts.tiles, state.tiles),
                requests=state.requests + counts.requests,
                detections=state.detections + counts.detections,
                failures=state.failures + counts.failures,
                kept=state.kept + counts.kept,
                waiting_for="",
            )
            if now - self.shown_at >= _SHOW_INTERVAL_S:
                self._show(now)

    def tick_until(self, finished: Event) -> None:
        """Show the state once a second also while no tile ends, so that seconds and rates are those of now."""
        while not finished.wait(_TICK_S):
            if time.monotonic() - self.shown_at < _TICK_S or is_abandoned(self.run):
                continue
            reason = self.waiting_for()  # without the lock, since a scheduler may be asked
            with self.lock:
                now = time.monotonic()
                if now - self.shown_at < _TICK_S or is_abandoned(self.run):
                    continue
                self.state = replace(self.state, waiting_for=reason)
                try:
                    self._show(now)
                except Exception:  # of a user's callback; it ends the run with the next tile
                    return

    def finish(self) -> None:
        """Show the last state, with all tiles done: the last counts of a cluster may still be in transit."""
        with self.lock:
            if is_abandoned(self.run):
                return
            self.state = replace(self.state, done=self.state.tiles, waiting_for="")
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        self.shown_at = now
        recent = [each for each in self.history if now - each[0] < _RATE_WINDOW_S]
        self.history = [*recent, (now, self.state.requests)]
        (then, before), (_, requests) = self.history[0], self.history[-1]
        rate = (requests - before) / (now - then) if now > then else 0.0
        self.state = replace(self.state, seconds=now - self.started, requests_per_s=rate)
        self.callback(self.state)


@contextmanager
def progress_listener(run: str, callbacks: list[ProgressCallback], tiles: int, kept: int) -> Iterator[None]:
    """Call back with the `Progress` of a run: at its start, at its end, and one to ten times a second.

    Parameters
    ----------
    run : str
        Name of the run.
    callbacks : list of callable
    tiles : int
        Number of tiles of the run.
    kept : int
        Number of tiles that are done already, in an earlier run.
    """
    if not callbacks:
        yield
        return

    def call_all(state: Progress) -> None:
        for callback in callbacks:
            callback(state)

    client, finished = active_client(), Event()
    tracker = _Tracker(run, call_all, lambda: waiting_for(run, client), Progress(tiles=tiles, done=kept, kept=kept))
    _listeners[run] = tracker.add
    if client is not None:
        client.subscribe_topic(run, lambda event: tracker.add(Counts(*event[1])))
    call_all(tracker.state)
    threading.Thread(target=tracker.tick_until, args=(finished,), name="geotile-progress", daemon=True).start()
    try:
        yield
        tracker.finish()
    finally:
        finished.set()
        del _listeners[run]
        if client is not None and is_open(client):
            client.unsubscribe_topic(run)


def clock(seconds: float) -> str:
    """Return a number of seconds as text, hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
