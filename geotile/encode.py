"""Tiles as bytes for the wire: GTIFF, NITF, PNG, JPEG, NPY.

GDAL writes an uncompressed GeoTIFF tile at a fifth of the speed of memory, so the GTIFF header is
written here, around the tile's bytes. The CRS's own tags come from GDAL, once a run.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geotile.errors import ArgumentError
from geotile.georef import NOWHERE, Georeference
from geotile.grid import Window
from geotile.quiet import unplaced

TileFormat = Literal["GTIFF", "NITF", "PNG", "JPEG", "NPY"]
CONTENT_TYPES = {
    "GTIFF": "image/tiff",
    "NITF": "image/nitf",
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "NPY": "application/x-npy",
}
_TAKES: dict[str, tuple[set[str], set[int]]] = {
    "PNG": ({"uint8", "uint16"}, {1, 2, 3, 4}),
    "JPEG": ({"uint8"}, {1, 3}),
    "NITF": ({"uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"}, set(range(1, 1000))),
}
_GTIFF_SKIPS = {"bool"}
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}}


@dataclass(frozen=True)
class Encoder:
    """Turns the pixels of a tile into bytes.

    Parameters
    ----------
    format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
        The tile's format. GTIFF carries the tile's own transform and CRS; JPEG is lossy.
    georeference : Georeference
        Of the whole image.
    nodata : float, optional
        Written into a GTIFF tile.
    """

    format: TileFormat
    georeference: Georeference = NOWHERE
    nodata: float | None = None

    def check(self, dtype: str, bands: int) -> None:
        """Refuse images that the format cannot hold.

        Raises
        ------
        ArgumentError
            If the format is unknown, or does not hold the dtype or that many bands.
        """
        if self.format not in get_args(TileFormat):
            raise ArgumentError(f"tile_format={self.format!r} is unknown; choose one of {get_args(TileFormat)}")
        dtypes, counts = _TAKES.get(self.format, ({dtype}, {bands}))
        if dtype not in dtypes or bands not in counts:
            raise ArgumentError(
                f"{self.format} holds {sorted(dtypes)} with {min(counts)} to {max(counts)} bands; the image "
                f"has {bands} of {dtype}: use tile_format='GTIFF' or select bands"
            )
        if self.format == "GTIFF" and (dtype in _GTIFF_SKIPS or np.dtype(dtype).kind not in "uif"):
            raise ArgumentError(f"GTIFF tiles hold integers and floats, the image has {dtype}; cast it first")

    @property
    def content_type(self) -> str:
        """Media type of the bytes."""
        return CONTENT_TYPES[self.format]

    def encode(self, pixels: NDArray[Any], window: Window) -> bytes:
        """Encode a tile.

        Parameters
        ----------
        pixels : numpy.ndarray
            (band, y, x), the tile.
        window : Window
            Where it lies in the image; its upper-left corner places the tile.

        Returns
        -------
        bytes
        """
        if self.format == "GTIFF":
            return _geotiff(pixels, self._transform(window), self.georeference.crs, self.nodata)
        if self.format == "NPY":
            buffer = io.BytesIO()
            np.save(buffer, pixels, allow_pickle=False)
            return buffer.getvalue()
        return _gdal(pixels, self.format)

    def _transform(self, window: Window) -> Affine | None:
        whole = self.georeference.transform
        return None if whole is None else whole @ Affine.translation(window.x0, window.y0)


def _gdal(pixels: NDArray[Any], driver: str) -> bytes:
    bands, height, width = pixels.shape
    options = _OPTIONS.get(driver, {})
    with MemoryFile() as memory:
        with unplaced():
            file = memory.open(
                driver=driver, count=bands, height=height, width=width, dtype=pixels.dtype.name, **options
            )
        with file:
            file.write(pixels)
        return bytes(memory.getbuffer())


_SHORT, _LONG, _DOUBLE, _ASCII = 3, 4, 12, 2
_SIZES = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _ASCII: "s"}


def _geotiff(pixels: NDArray[Any], transform: Affine | None, crs: str | None, nodata: float | None) -> bytes:
    """Write one uncompressed, pixel-interleaved strip behind a TIFF 6.0 header with GeoTIFF 1.1 tags."""
    bands, height, width = pixels.shape
    body = np.empty((height, width, bands), pixels.dtype.newbyteorder("<"))
    for band in range(bands):  # ten times faster than moving the axis in one copy
        body[..., band] = pixels[band]
    colours = 3 if bands in (3, 4) and pixels.dtype.kind == "u" else 1
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags: dict[int, tuple[int, Any]] = {
        256: (_LONG, (width,)),
        257: (_LONG, (height,)),
        258: (_SHORT, (8 * pixels.dtype.itemsize,) * bands),
        259: (_SHORT, (1,)),
        262: (_SHORT, (2 if colours == 3 else 1,)),
        273: (_LONG, (0,)),  # ^ filled in below, once the header's length is known
        277: (_SHORT, (bands,)),
        278: (_LONG, (height,)),
        279: (_LONG, (body.nbytes,)),
        284: (_SHORT, (1,)),
        339: (_SHORT, (kind,) * bands),
    }
    if bands > colours:
        tags[338] = (_SHORT, (0,) * (bands - colours))
    if transform is not None:
        a, b, c, d, e, f = transform[:6]
        tags[34264] = (_DOUBLE, (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        tags |= _geo_keys(crs)
    if nodata is not None:
        tags[42113] = (_ASCII, f"{nodata:.17g}\0".encode())
    start = len(_header(tags))
    tags[273] = (_LONG, (start,))
    return _header(tags) + body.tobytes()


def _header(tags: dict[int, tuple[int, Any]]) -> bytes:
    """Lay out one image file directory, values longer than 4 bytes behind it."""
    entries, extra = [], b""
    behind = 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, values = tags[tag]
        raw = values if kind == _ASCII else struct.pack(f"<{len(values)}{_SIZES[kind]}", *values)
        place = raw.ljust(4, b"\0")
        if len(raw) > 4:
            place = struct.pack("<I", behind + len(extra))
            extra += raw + b"\0" * (len(raw) % 2)
        entries.append(struct.pack("<HHI", tag, kind, len(values)) + place)
    pad = b"\0" * (-(behind + len(extra)) % 16)
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + extra + pad


@lru_cache(maxsize=16)
def _geo_keys(crs: str | None) -> dict[int, tuple[int, Any]]:
    """Return the GeoKey tags that GDAL writes for a CRS."""
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=1, width=1, dtype="uint8", crs=crs, transform=Affine.translation(1, 1)
        ) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        raw = bytes(memory.getbuffer())
    start = struct.unpack_from("<I", raw, 4)[0]
    found: dict[int, tuple[int, Any]] = {}
    for i in range(struct.unpack_from("<H", raw, start)[0]):
        tag, kind, count = struct.unpack_from("<HHI", raw, start + 2 + 12 * i)
        if tag in (34735, 34736, 34737):
            size = count * {_SHORT: 2, _DOUBLE: 8, _ASCII: 1}[kind]
            at = start + 2 + 12 * i + 8
            at = struct.unpack_from("<I", raw, at)[0] if size > 4 else at
            data = raw[at : at + size]
            found[tag] = (kind, data if kind == _ASCII else struct.unpack(f"<{count}{_SIZES[kind]}", data))
    return found
