"""Open files: each thread opens a file once, because GDAL's handles must not be shared between threads."""

from __future__ import annotations

import re
import threading
import time
from contextlib import nullcontext, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import rasterio
from rasterio.errors import RasterioError

from geotile.core.rasterio_env import ignore_georeference_warnings
from geotile.core.redact import redact
from geotile.core.registry import Registry
from geotile.imagery.file_version import has_changed, note_change, version_of
from geotile.imagery.local_files import check_kinds
from geotile.storage.location import Location

_MAX_OPEN_FILES = 4  # per thread
_local = threading.local()

# Formats whose files contain their whole image, each of them tried in tests/test_drivers.py. The others name further
# files or hosts (VRT, DIMAP, SAFE, WMS ...; PCIDSK, HFA and RST too), which an untrusted image must not choose.
DRIVERS = (
    "GTiff", "COG", "NITF", "JP2OpenJPEG", "JPEG", "PNG", "WEBP", "GIF", "BIGGIF", "BMP", "ENVI", "EHdr", "DTED",
    "SRTMHGT", "USGSDEM", "AAIGrid", "GRIB", "PNM",
)  # fmt: skip
_ALLOW = ". Remove that, or pass allow_vrt=True if you trust the image"
_ERDAS_LINKS = (b"ExternalRasterDMS", b"RRDNamesList")
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
    check_kinds(key.location.file_path)
    if has_changed(key.location, key.version):
        if version_of(key.location) != key.version:
            raise OSError("the file has changed since it was opened. Open the image again")
        drop_cached_header(key.location, key.allow_vrt)
        note_change(key.location, key.version)
    if key.location.is_remote:  # GDAL caches what it learns of the file, so the second time costs no request
        with (quick := key.location.for_opening()).environment():
            open_file(quick, key.allow_vrt).close()
    return open_file(key.location, key.allow_vrt)


def close_dataset(key: FileKey) -> None:
    """Close this thread's handle of a file: GDAL does not repeat a read that timed out with the same handle."""
    files: Registry[FileKey, rasterio.DatasetReader] | None = getattr(_local, "files", None)
    if files is not None and (file := files.peek(key)) is not None:
        files.discard(key, file)


def drop_cached_header(location: Location, allow_vrt: bool) -> None:
    """Make GDAL drop what it caches of a remote file: its first bytes, or that it was missing.

    GDAL drops this when a handle that was opened with CPL_VSIL_CURL_NON_CACHED is closed, even if the file could not
    be opened. The time-outs are short, so that a host that does not answer causes no wait.
    """
    hasty = location.with_settings(
        GDAL_HTTP_MAX_RETRY="0", GDAL_HTTP_TIMEOUT="1", GDAL_HTTP_CONNECTTIMEOUT="1",
        CPL_VSIL_CURL_NON_CACHED=location.file_path,
    )  # fmt: skip
    with hasty.environment(), suppress(RasterioError, OSError):
        open_file(hasty, allow_vrt).close()


def open_file(location: Location, allow_vrt: bool, **options: Any) -> rasterio.DatasetReader:
    """Open a file with the drivers that are allowed.

    Parameters
    ----------
    location : Location
    allow_vrt : bool
        Whether all drivers are allowed, including those of formats that refer to other files.
    **options
        Open options of the driver.

    Raises
    ------
    OSError
        If it cannot be opened, or names another file and not all drivers are allowed.
    """
    if not allow_vrt:
        _check_aux(location)
    # GDAL's reader of NITF asks for overviews while it opens a file, before the metadata can be checked.
    without_aux = location.environment(GDAL_PAM_ENABLED="NO") if not allow_vrt and _is_nitf(location) else nullcontext()
    with ignore_georeference_warnings(), without_aux:
        # rasterio.open accepts one driver only; the class that it returns accepts several.
        file = rasterio.DatasetReader(location.path, driver=None if allow_vrt else list(DRIVERS), **options)
    if not allow_vrt and (named := file.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")) is not None:
        file.close()  # GDAL opens what is named, any file or URL, when it is first asked for overviews
        raise OSError(f"its metadata name another file, {redact(named)!r}, as its overviews{_ALLOW}")
    return file


def own_subdatasets(location: Location, file: rasterio.DatasetReader, allow_vrt: bool) -> list[str]:
    """Return the names of the images inside a file; metadata of any file can claim that another one is inside it."""
    inside = re.compile(rf"(GTIFF_DIR:(off:)?|NITF_IM:)\d+:{re.escape(location.path)}")
    return [name for name in file.subdatasets if allow_vrt or inside.fullmatch(name)]


def _is_nitf(location: Location) -> bool:
    """Return whether a file is a NITF beside which GDAL looks for others; one that cannot be read is none."""
    if dict(location.settings).get("GDAL_DISABLE_READDIR_ON_OPEN") == "EMPTY_DIR":
        return False
    with suppress(RasterioError, OSError):
        return read_bytes(location.file_path, 0, 4) in (b"NITF", b"NSIF")
    return False


def _check_aux(location: Location) -> None:
    """Raise OSError if an ``.aux`` file of ERDAS beside a local file, which GDAL takes for overviews, names others."""
    for beside in (Path(f"{location.file_path}.aux"), Path(location.file_path).with_suffix(".aux")):
        if beside.is_file() and beside.stat().st_size:
            with beside.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
                if any(content.find(name) >= 0 for name in _ERDAS_LINKS):
                    raise OSError(f"{beside.name} beside it names other files as its overviews{_ALLOW}")


def is_retryable(location: Location, message: str) -> bool:
    """Return whether a message of GDAL says that the host of a remote file is the cause of an error."""
    return (location.is_remote or "://" in location.path) and is_retryable_text(message)


def is_retryable_text(message: str) -> bool:
    """Return whether a message says that a host is the cause of an error, and may answer later."""
    return _RETRYABLE.search(message) is not None


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


def late_note(location: Location, started: float, limit_s: float) -> str:
    """Return what an error says of a read that began at a time of the monotonic clock, if an answer was cut off."""
    if not location.is_remote or time.monotonic() - started < limit_s:
        return ""
    return (
        f"; it timed out after {time.monotonic() - started:.0f} s: an answer must be complete within {limit_s:g} s, "
        f"which total_timeout={location.total_s:g} in storage_options sets"
    )
