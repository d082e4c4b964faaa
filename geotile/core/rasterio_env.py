"""What rasterio would do for every tile, and need not: warn of no georeference, look for AWS credentials."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

_lock = Lock()


def in_memory() -> rasterio.Env:
    """Return a block for files in memory alone.

    Without it rasterio makes a session of boto3 for each, where the environment holds AWS keys: 25 ms.
    """
    return rasterio.Env(DummySession())


@contextmanager
def unplaced() -> Iterator[None]:
    """Open or write images without a georeference in silence, one thread at a time.

    The warning filters are the process's, so two threads must not swap them at once.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
