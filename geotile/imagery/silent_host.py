"""Hosts of images that stopped answering: a run gives them up after the time that one answer may take."""

from __future__ import annotations

import time

from geotile.core.registry import Registry

_since = Registry[str, float](100)  # by run: when the first of the reads began that have failed since the last success


def note_read(run: str) -> None:
    """Record that pixels were read in a run."""
    if (since := _since.peek(run)) is not None:
        _since.discard(run, since)


def note_silence(run: str, started: float) -> None:
    """Record that a read failed because of the host, which began at a time of the monotonic clock."""
    _since.get(run, lambda: started)


def given_up(run: str, total_s: float) -> str | None:
    """Return why nothing more is read in a run; None while there is hope.

    Examples
    --------
    >>> note_silence("a run", time.monotonic() - 400)
    >>> given_up("a run", 300)
    'its host has not answered for 300 s (total_timeout in storage_options), so nothing more is read'
    >>> note_read("a run")
    >>> given_up("a run", 300) is None
    True
    """
    since = _since.peek(run)
    if since is None or time.monotonic() - since < total_s:
        return None
    return f"its host has not answered for {total_s:g} s (total_timeout in storage_options), so nothing more is read"
