"""Rasters in the bytes of a GeoTIFF or a PNG, read whole or refused."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from geotile.core.rasterio_env import READ_ERRORS, ignore_georeference_warnings
from geotile.errors import ResponseError

_PNG = b"\x89PNG\r\n\x1a\n"
_COLOURS = 3
_CLASS = re.compile(r"CLASS_(0|[1-9][0-9]{0,5})")
_MAX_BYTES = 2**30  # of decoded pixels: a file of a kilobyte can stand for gigabytes


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterFile:
    """What a file says."""

    values: NDArray[Any]
    """(band, y, x), without a band of transparency, with the scale and the offset of the file; 0 where it has none."""
    valid: NDArray[np.bool_] | None
    """(y, x) bool, the pixels that have a value in all bands; None for all."""
    classes: tuple[str, ...] | None
    """Names of the bands, or of the classes of one band."""


def read_raster_file(body: bytes, driver: str) -> RasterFile:
    """Return what a file says.

    Parameters
    ----------
    body : bytes
    driver : {"GTiff", "PNG"}

    Raises
    ------
    ResponseError
        If it cannot be read, is incomplete, or holds something else than one raster of numbers.
    """
    if driver == "PNG":
        _check_png(body)
    try:
        with ignore_georeference_warnings(), rasterio.MemoryFile(body) as memory, memory.open(driver=driver) as file:
            return _content(file)
    except (*READ_ERRORS, ValueError, MemoryError) as error:
        raise ResponseError(f"the answer is not a {driver} that can be read ({error})") from None


def _content(file: Any) -> RasterFile:
    if file.subdatasets:
        raise ResponseError(f"the answer must be one image; got a file with {len(file.subdatasets)} pages")
    needed = file.count * file.height * file.width * max(np.dtype(dtype).itemsize for dtype in file.dtypes)
    if needed > _MAX_BYTES:
        raise ResponseError(
            f"the answer must have at most {_MAX_BYTES:,} bytes of pixels; got {file.count} bands of "
            f"{file.height:,} x {file.width:,}"
        )
    bands = [n for n, kind in zip(file.indexes, file.colorinterp, strict=True) if kind != ColorInterp.alpha]
    if len(bands) == _COLOURS < file.count and file.driver == "GTiff" and file.dtypes[0] == "uint8":
        raise ResponseError(
            "the fourth band of the answer is marked as transparency, as GDAL does with four bands of uint8 by itself. "
            "If it holds values, write it with photometric='MINISBLACK'; if not, write it as a mask or leave it out"
        )
    if not bands or any(np.dtype(file.dtypes[n - 1]).kind not in "buif" for n in bands):
        raise ResponseError(f"the answer must hold numbers that are not complex; got bands of {', '.join(file.dtypes)}")
    values, known = file.read(bands), (file.read_masks(bands) > 0).all(axis=0)
    scales, offsets = (np.array([each[n - 1] for n in bands]) for each in (file.scales, file.offsets))
    if (scales != 1).any() or (offsets != 0).any():
        values = values * scales[:, None, None] + offsets[:, None, None]
    names = [file.descriptions[n - 1] for n in bands] if len(bands) > 1 else _category_names(file, bands[0])
    if not names or not all(names):
        listed = _category_names(file, 0)
        names = listed if listed is not None and len(bands) in (1, len(listed)) else None
    return RasterFile(
        values=values if known.all() else np.where(known, values, values.dtype.type(0)),
        valid=None if known.all() else known, classes=tuple(map(str, names)) if names and all(names) else None,
    )  # fmt: skip


def _category_names(file: Any, band: int) -> list[str] | None:
    """Return the names of the classes that the metadata of a band list, or of the file (band 0), by their numbers."""
    tags = file.tags(band)
    numbers = sorted(int(match[1]) for key in tags if (match := _CLASS.fullmatch(key)))
    if numbers != list(range(len(numbers))):
        return None  # with gaps, a name's place is not its number
    return [tags[f"CLASS_{number}"] for number in numbers] or None


def _check_png(body: bytes) -> None:
    """Check that a PNG is whole and has one frame: GDAL reads what it can of one that was cut off.

    Notes
    -----
    A PNG is a signature and chunks: length, type, data, CRC-32 of type and data (PNG Specification, third edition,
    5.3).

    Raises
    ------
    ResponseError
        If it is not.
    """
    if not body.startswith(_PNG):
        raise ResponseError("the answer is not a PNG that can be read (it does not begin as one)")
    place, kinds = len(_PNG), list[bytes]()
    while place + 12 <= len(body) and kinds[-1:] != [b"IEND"]:
        length, kind = struct.unpack_from(">I4s", body, place)
        end = place + 8 + length
        if end + 4 > len(body):
            break
        if zlib.crc32(body[place + 4 : end]) != struct.unpack_from(">I", body, end)[0]:
            raise ResponseError(f"the answer is not a PNG that can be read (its chunk {kind!r} is damaged)")
        kinds.append(kind)
        place = end + 4
    if kinds[-1:] != [b"IEND"]:
        raise ResponseError(f"the answer is not a PNG that can be read (it ends after {len(body):,} bytes)")
    if b"acTL" in kinds:
        raise ResponseError("the answer must be one image; got an animated PNG")
