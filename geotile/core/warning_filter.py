"""Warnings: issued at the line of the caller, or ignored for a while, safely with threads."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any

from geotile.printable import printable

_ANY = "(?#geotile)"  # matches any message
_lock = RLock()
_ignored: dict[type[Warning], tuple[int, Any]] = {}  # how many blocks ignore a category, and where its filter is


def _after_fork() -> None:
    """Make the lock anew: a thread that held it is not in the child."""
    global _lock
    _lock = RLock()
    for category in list(_ignored):
        _stop_ignoring(category)


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def ignore_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category in all threads while the block runs.

    The warning filters belong to the process. The first thread adds a filter and the last one removes it, so that no
    lock is held during the block, which may wait for a network.

    Examples
    --------
    >>> with ignore_warnings(UserWarning), ignore_warnings(UserWarning):
    ...     warnings.warn("nobody sees it", UserWarning)
    """
    with _lock:
        count, filters = _ignored.get(category, (0, warnings.filters))
        if not count:
            warnings.filterwarnings("ignore", _ANY, category)
        _ignored[category] = count + 1, filters
    try:
        yield
    finally:
        with _lock:
            if category in _ignored:  # else this process was forked within the block
                count, filters = _ignored[category]
                _ignored[category] = count - 1, filters
                if count == 1:
                    _stop_ignoring(category)


def _stop_ignoring(category: type[Warning]) -> None:
    """Remove the filter from the list that it was added to, and from the one that others have put in its place."""
    _, filters = _ignored.pop(category)
    present: Any = warnings.filters
    for each in (filters, present):
        with suppress(ValueError):
            each.remove(_filter_of(category))


def _filter_of(category: type[Warning]) -> tuple[Any, ...]:
    """Return the filter that `ignore_warnings` adds: no other has this pattern."""
    return ("ignore", re.compile(_ANY, re.IGNORECASE), category, None, 0)


@contextmanager
def filters_kept() -> Iterator[None]:
    """Let one thread at a time call what replaces the warning filters and restores them, in another package.

    Two threads that do so at the same time can leave the filters of one of them: the process is then silent for good.
    """
    with _lock:
        yield


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line outside geotile that led here, so that Python shows the user's own call.

    The message may quote what others wrote; control characters in it are written as escapes.
    """
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("geotile", "contextlib"):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]  # None above the first frame
    warnings.warn(printable(message, "\n\t"), category, stacklevel=level)
