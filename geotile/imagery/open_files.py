"""Open files: each thread opens a file once, because GDAL's handles must not be shared between threads."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import rasterio
from rasterio.errors import RasterioError

from geotile.core.rasterio_env import ignore_georeference_warnings
from geotile.core.registry import Registry
from geotile.imagery.file_version import has_changed, note_change, version_of
from geotile.storage.location import Location

_MAX_OPEN_FILES = 4  # per thread
_local = threading.local()

# Formats whose files contain their whole image. The others (VRT, DIMAP, SAFE, WMS ...) refer to further files or hosts,
# which an image from an unknown origin must not choose.
DRIVERS = (
    "GTiff", "COG", "NITF", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JPEG", "JPEGXL", "PNG", "WEBP", "GIF",
    "BIGGIF", "BMP", "HFA", "PCIDSK", "ENVI", "EHdr", "DTED", "SRTMHGT", "USGSDEM", "AAIGrid", "GRIB", "PNM", "RST",
)  # fmt: skip

_RETRYABLE = re.compile(  # messages of GDAL, and of S3 (last line), for which the host is the cause
    r"HTTP (response|error) code ?:? ?(429|5\d\d)|CURL error|[Tt]imed? ?out|too slow|resolve host|refused|connect"
    r"|SlowDown|reduce your request rate|Service ?Unavailable|[Ii]nternal ?[Ee]rror|[Tt]ry again|Throttl"
)


class FileKey(NamedTuple):
    """Key of an open file."""

    location: Location
    version: str
    """Version of the file, as `version_of` returns it."""
    allow_vrt: bool
    """Whether formats that refer to other files are opened."""


def dataset(key: FileKey) -> rasterio.DatasetReader:
    """Return this thread's handle of a file.

    Raises
    ------
    OSError
        If the file has changed since its header was read, or cannot be opened.
    """
    files: Registry[FileKey, rasterio.DatasetReader] | None = getattr(_local, "files", None)
    if files is None:
        files = _local.files = Registry(_MAX_OPEN_FILES, close=rasterio.DatasetReader.close)
    return files.get(key, lambda: _open_version(key))


def _open_version(key: FileKey) -> rasterio.DatasetReader:
    """Open a file after checking that it is still the version of the key."""
    if has_changed(key.location, key.version):
        if version_of(key.location) != key.version:
            raise OSError("the file has changed since it was opened. Open the image again")
        drop_cached_header(key.location, key.allow_vrt)
        note_change(key.location, key.version)
    return open_file(key.location, key.allow_vrt)


def drop_cached_header(location: Location, allow_vrt: bool) -> None:
    """Make GDAL drop what it caches of a remote file: its first bytes, or that it was missing.

    GDAL drops this when a handle that was opened with CPL_VSIL_CURL_NON_CACHED is closed, even if the file could not
    be opened. The time-outs are short, so that a host that does not answer causes no wait.
    """
    no_wait = {"GDAL_HTTP_MAX_RETRY": "0", "GDAL_HTTP_TIMEOUT": "1", "GDAL_HTTP_CONNECTTIMEOUT": "1"}
    with location.environment(CPL_VSIL_CURL_NON_CACHED=location.file_path, **no_wait), suppress(RasterioError, OSError):
        open_file(location, allow_vrt).close()


def open_file(location: Location, allow_vrt: bool, **options: Any) -> rasterio.DatasetReader:
    """Open a file with the drivers that are allowed.

    Parameters
    ----------
    location : Location
    allow_vrt : bool
        Whether all drivers are allowed, including those of formats that refer to other files.
    **options
        Open options of the driver.
    """
    with ignore_georeference_warnings():
        # rasterio.open accepts one driver only; the class that it returns accepts several.
        return rasterio.DatasetReader(location.path, driver=None if allow_vrt else list(DRIVERS), **options)


def is_retryable(location: Location, message: str) -> bool:
    """Return whether a message of GDAL says that the host of a remote file is the cause of an error."""
    return location.is_remote and _RETRYABLE.search(message) is not None


def read_bytes(path: str, offset: int, size: int) -> bytes:
    """Return bytes of any file that GDAL reads, within `Location.environment`: rasterio reads pixels only.

    Raises
    ------
    OSError
        If the file ends before.
    """
    band = (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">{escape(path)}</SourceFilename>'
        f"<ImageOffset>{offset}</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>{size}</LineOffset>"
        "</VRTRasterBand></VRTDataset>"
    )
    with ignore_georeference_warnings(), rasterio.DatasetReader(band, driver=["VRT"]) as file:
        return bytes(file.read(1).tobytes())
