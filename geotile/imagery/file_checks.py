"""Checks of a file before and after GDAL opens it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import rasterio

from geotile.core.redact import redact
from geotile.errors import ImageOpenError
from geotile.imagery.local_files import check_kinds
from geotile.storage.location import Location

_MAX_SIDE_PX = 2**24  # at 0.3 m this is 5,000 km
_RAW_DRIVERS = ("ENVI", "EHdr", "RST")  # they find a header beside any file, and take its bytes for pixels


def check_readable(location: Location) -> None:
    """Raise ImageOpenError if a local file is missing, is not a file, cannot be read or is empty."""
    try:
        check_kinds(location.path)
    except OSError as error:
        raise ImageOpenError(str(error)) from None
    path = Path(location.path)
    if "://" in location.path or location.path.startswith("/vsi"):
        return
    if ":" in location.path and not path.exists():
        return  # a subdataset (NITF_IM:0:file), which only GDAL can resolve
    if not path.exists():
        raise ImageOpenError(f"no such image: {path} (current folder {Path.cwd()}). Check the path")
    if path.is_file() and not os.access(path, os.R_OK):
        raise ImageOpenError(f"no permission to read {path}. Change its permissions")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageOpenError(f"{path} is empty (0 bytes). Check how it was written")


def check_size(location: Location, file: rasterio.DatasetReader) -> None:
    """Raise ImageOpenError if a file has no bands, or its header claims an impossible size."""
    if file.count == 0:
        inside = ", ".join(redact(name) for name in file.subdatasets) or "nothing"
        raise ImageOpenError(
            f"{location.display_name} has no bands; it contains {inside}. Choose an image with subdataset="
        )
    if max(file.shape) > _MAX_SIDE_PX or 0 in file.shape:
        raise ImageOpenError(
            f"the header of {location.display_name} claims {file.width} x {file.height} pixels; each side must be "
            f"from 1 to {_MAX_SIDE_PX:,} pixels. Check the file"
        )


def check_raw(location: Location, file: rasterio.DatasetReader) -> None:
    """Raise ImageOpenError if a driver of raw pixels found its header beside a file that holds something else."""
    path = Path(location.file_path)
    if file.driver not in _RAW_DRIVERS or not path.is_file():
        return
    offset = int(file.tags(ns="ENVI").get("header_offset", 0))
    pixel_bytes = sum(np.dtype(dtype.replace("complex_int16", "int32")).itemsize for dtype in file.dtypes)
    expected = offset + pixel_bytes * file.width * file.height
    if path.stat().st_size != expected:
        raise ImageOpenError(
            f"{location.display_name} is not the file that the {file.driver} header beside it describes: it has "
            f"{path.stat().st_size:,} bytes, and the header describes {expected:,}. Open the file that belongs to the "
            "header, or move the header"
        )
