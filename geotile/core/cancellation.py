"""Runs that ended early in this process: nothing more is read or sent for them."""

from __future__ import annotations

from collections import OrderedDict

_KEPT = 100
_reasons: OrderedDict[str, str] = OrderedDict()


def cancel_run(run: str, reason: str) -> None:
    """Note that a run ended, and why; the first reason stays.

    Examples
    --------
    >>> cancel_run("a run", "the model is gone")
    >>> cancel_reason("a run"), cancel_reason("another")
    ('the model is gone', None)
    """
    _reasons.setdefault(run, reason)
    while len(_reasons) > _KEPT:
        _reasons.popitem(last=False)


def cancel_reason(run: str) -> str | None:
    """Return why a run ended, None if it goes on."""
    return _reasons.get(run)
