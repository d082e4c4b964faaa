"""Reads from stores that refuse requests: one row of blocks a request, so that GDAL retries each of them by itself.

GDAL requests the ranges of a read at once. Until version 3.13 it does not retry a refused one of them: it drops all and
fetches block by block, one request after the other. The range of a single row of blocks it does retry::

    first read of a file, or one was refused within the last minute ─▶ in rows, by threads
    else ─▶ at once
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.daemon_pool import DaemonPool
from geotile.core.rasterio_env import READ_ERRORS
from geotile.core.registry import Registry
from geotile.grid.tile_grid import Window
from geotile.imagery.open_files import FileKey, close_dataset
from geotile.imagery.pixels import Pixels
from geotile.storage.gdal_cache import LARGE_CACHE_BYTES, SMALL_CACHE_BYTES

if TYPE_CHECKING:
    from geotile.imagery.source import Source

_REFUSED = re.compile(r"Request for \S+ failed with response_code|Retrying again in")  # rasterio logs GDAL's messages
_REMEMBERED_S = 60.0
_MAX_THREADS = 16
_local = threading.local()
_refused_at = Registry[FileKey, float](
    100
)  # time of the monotonic clock at which a request was last refused, or long ago
_pools = Registry[str, DaemonPool](1)


class _Watch(logging.Filter):
    """Passes all records, and notes those that say that a request of this thread was refused."""

    def filter(self, record: logging.LogRecord) -> bool:
        key: FileKey | None = getattr(_local, "key", None)
        if key is not None and _REFUSED.search(record.getMessage()):
            _refused_at.put(key, time.monotonic())
        return True


logging.getLogger("rasterio._err").addFilter(_Watch())


def read_ranges(source: Source, window: Window, valid: bool, out: NDArray[Any] | None) -> Pixels:
    """Return a window of a file at full resolution, before all steps.

    Parameters
    ----------
    source : Source
    window : Window
        Window of the whole image in pixels.
    valid : bool
        Whether the validity of the pixels is needed.
    out : numpy.ndarray or None
        (band, y, x) of the file's dtype, where the values may be put.

    Raises
    ------
    OSError, RasterioError
        If a block on the window cannot be read.
    """
    edges = _edges(window, source.block_yx[0])
    if not source.location.is_remote or source.driver != "GTiff" or len(edges) < 3 or not _is_suspect(source.file_key):
        return _read(source, window, valid, out)
    values = np.empty((len(source.bands), *window.shape_yx), source.file_dtype) if out is None else out
    rows = [Window(y0, y1, window.x0, window.x1) for y0, y1 in pairwise(edges)]
    # Outside of the environment, which configures GDAL for all threads if this is the main one.
    pool = _pools.get("rows", lambda: DaemonPool(_MAX_THREADS, "geotile-rows"))
    futures = [pool.submit(_read_row, source, row, valid, values[:, row.within(window).slices[0]]) for row in rows]
    wait(futures)
    data = [future.result().valid for future in futures]
    _refused_at.get(source.file_key, lambda: -_REMEMBERED_S)
    if all(each is None for each in data):
        return Pixels(values, None)
    known = [np.ones(row.shape_yx, bool) if each is None else each for row, each in zip(rows, data, strict=True)]
    return Pixels(values, np.concatenate(known))


def _edges(window: Window, height: int) -> list[int]:
    """Return where the rows of blocks on a window begin, and its end; several are one where there are too many."""
    step = height * max(1, -(-(window.y1 - window.y0) // (height * _MAX_THREADS)))
    return [window.y0, *range((window.y0 // step + 1) * step, window.y1, step), window.y1]


def _is_suspect(key: FileKey) -> bool:
    """Return whether the store may refuse a request of a read."""
    refused_at = _refused_at.peek(key)
    return refused_at is None or time.monotonic() - refused_at < _REMEMBERED_S


@contextmanager
def _watching(key: FileKey) -> Iterator[None]:
    """Note refused requests of this thread as those of a file."""
    _local.key = key
    try:
        yield
    finally:
        _local.key = None


def _read_row(source: Source, row: Window, valid: bool, out: NDArray[Any]) -> Pixels:
    try:
        return _read(source, row, valid, out)
    except READ_ERRORS:
        close_dataset(
            source.file_key
        )  # of this thread: GDAL does not repeat a read that timed out with the same handle
        raise


def _read(source: Source, window: Window, valid: bool, out: NDArray[Any] | None) -> Pixels:
    once = source.driver in ("GTiff", "COG") and not source.masked and source.alpha is None
    cache_bytes = SMALL_CACHE_BYTES if once else LARGE_CACHE_BYTES
    with source.location.environment(cache_bytes), np.errstate(all="ignore"), _watching(source.file_key):
        return source.read_file(window, valid, out)
