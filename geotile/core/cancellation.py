"""Runs that were cancelled in this process: nothing more is read or sent for them."""

from __future__ import annotations

from geotile.core.registry import Registry

_reasons = Registry[str, str](100)


def cancel_run(run: str, reason: str) -> None:
    """Record that a run was cancelled, and why. If it was cancelled before, the first reason is kept.

    Examples
    --------
    >>> cancel_run("a run", "the endpoint does not exist")
    >>> cancel_reason("a run"), cancel_reason("another run")
    ('the endpoint does not exist', None)
    """
    _reasons.get(run, lambda: reason)


def cancel_reason(run: str) -> str | None:
    """Return why a run was cancelled, or None if it was not."""
    return _reasons.peek(run)
