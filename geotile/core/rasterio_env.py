"""Settings that keep rasterio from needless work for each tile: warnings, and a search for AWS credentials."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

_lock = Lock()


def memory_env() -> rasterio.Env:
    """Return a rasterio environment for files that are in memory.

    Without it, rasterio creates a boto3 session for each file if the environment holds AWS keys, which takes 25 ms.
    """
    return rasterio.Env(DummySession())


@contextmanager
def ignore_georeference_warnings() -> Iterator[None]:
    """Open or write images without a georeference and without a warning, one thread at a time.

    The warning filters belong to the process, so two threads must not replace them at the same time.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
