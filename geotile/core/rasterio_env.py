"""Settings that keep rasterio from needless work for each tile: warnings, and a search for AWS credentials."""

from __future__ import annotations

from contextlib import AbstractContextManager

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession

from geotile.core.warning_filter import ignore_warnings

READ_ERRORS = (RasterioError, OSError, CPLE_BaseError)  # rasterio lets some errors of GDAL through as they are


def memory_env() -> rasterio.Env:
    """Return a rasterio environment for files that are in memory.

    Without it, rasterio creates a boto3 session for each file if the environment holds AWS keys, which takes 25 ms.
    """
    return rasterio.Env(DummySession())


def ignore_georeference_warnings() -> AbstractContextManager[None]:
    """Return a block that opens or writes images without a georeference and without a warning."""
    return ignore_warnings(NotGeoreferencedWarning)
