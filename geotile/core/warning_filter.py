"""Warnings: issued at the line of the caller, or ignored for a while, safely with threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from geotile.printable import printable

_lock = RLock()


def _after_fork() -> None:
    """Make the lock anew: a thread that held it is not in the child."""
    global _lock
    _lock = RLock()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def ignore_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category, one thread at a time.

    The warning filters belong to the process, so two threads must not replace and restore them at the same time.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


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
