"""Settings that keep rasterio from needless work for each tile: warnings, and a search for AWS credentials."""

from __future__ import annotations

from contextlib import AbstractContextManager

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession

from geotile.core.warning_filter import ignore_warnings

_RASTERIO_HINT = "See previous exception for details."
READ_ERRORS = (RasterioError, OSError, CPLE_BaseError)  # rasterio lets some errors of GDAL through as they are
WRITE_ERRORS = (*READ_ERRORS, SystemError)  # and raises this one where GDAL fails without a message


def memory_env() -> rasterio.Env:
    """Return a rasterio environment for files that are in memory.

    Without it, rasterio creates a boto3 session for each file if the environment holds AWS keys, which takes 25 ms.
    """
    return rasterio.Env(DummySession())


def ignore_georeference_warnings() -> AbstractContextManager[None]:
    """Return a block that opens or writes images without a georeference and without a warning."""
    return ignore_warnings(NotGeoreferencedWarning)


def error_text(error: BaseException) -> str:
    """Return the message of an error with that of GDAL, which names the cause: rasterio only says "read failed"."""
    cause = error.__cause__ or error.__context__
    text = str(error).removesuffix(_RASTERIO_HINT).rstrip(" .")
    if cause is None or not str(cause):
        return text
    return str(cause).rstrip(".") if text in ("", "Read failed") else f"{text}; {str(cause).rstrip('.')}"
