"""Size of GDAL's block cache, which a process has once.

rasterio takes GDAL_CACHEMAX like an option of one thread, but sets the size for the process, and at the end of an `Env`
returns to the size that it found at the beginning. With two threads that is the size of the other, or a twentieth of
the memory while the other still reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.env import get_gdal_config, set_gdal_config

SMALL_CACHE_BYTES = 32 * 2**20  # enough where each block is decoded once, for all bands
LARGE_CACHE_BYTES = 64 * 2**20  # with less, tiles of JPEG 2000 are decoded once for each band
_NAME = "GDAL_CACHEMAX"
_lock = threading.Lock()
_in_use: list[int] = []
_size_before = 0


def _after_fork() -> None:
    """Forget the threads that read in the parent."""
    global _lock
    _lock = threading.Lock()
    _in_use.clear()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def gdal_cache(size_bytes: int) -> Iterator[None]:
    """Bound GDAL's block cache within the block: the largest size of all threads holds, and after the last the former.

    Parameters
    ----------
    size_bytes : int
    """
    global _size_before
    with _lock:
        if not _in_use:
            _size_before = get_gdal_config(_NAME)
        _in_use.append(size_bytes)
        set_gdal_config(_NAME, max(_in_use))
    try:
        yield
    finally:
        with _lock:
            _in_use.remove(size_bytes)
            set_gdal_config(_NAME, max(_in_use, default=_size_before))
