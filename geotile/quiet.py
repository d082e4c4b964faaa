"""Silence for the warning that rasterio gives for every tile without a georeference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from rasterio.errors import NotGeoreferencedWarning

_lock = Lock()


@contextmanager
def unplaced() -> Iterator[None]:
    """Open or write images without a georeference in silence, one thread at a time.

    The warning filters are the process's, so two threads must not swap them at once.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
