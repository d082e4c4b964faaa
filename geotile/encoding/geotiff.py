"""An uncompressed GeoTIFF around pixels in memory.

GDAL writes one at a fifth of the speed of memory, so the header is written here, around the tile's
bytes. The CRS's own tags come from GDAL, once a run.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geotile.geometry.georeference import Georeference
from geotile.geometry.placement import RPC_COEFFICIENTS, AffinePlacement, GcpPlacement, RpcPlacement

_SHORT, _LONG, _DOUBLE, _ASCII = 3, 4, 12, 2
_SIZES = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _ASCII: "s"}


def geotiff(pixels: NDArray[Any], place: Georeference, nodata: float | None) -> bytes:
    """Write one uncompressed, pixel-interleaved strip behind a TIFF 6.0 header with GeoTIFF 1.1 tags.

    Parameters
    ----------
    pixels : numpy.ndarray
        (band, y, x).
    place : Georeference
        Of these pixels.
    nodata : float or None
        Written as GDAL's tag.
    """
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
    tags |= _place_tags(place)
    if nodata is not None:
        tags[42113] = (_ASCII, f"{nodata:.17g}\0".encode())
    start = len(_header(tags))
    tags[273] = (_LONG, (start,))
    return _header(tags) + body.tobytes()


def _place_tags(place: Georeference) -> dict[int, tuple[int, Any]]:
    """Return what says where the pixels lie: a transform, tie points, or RPCs (GDAL's tag 50844)."""
    where = place.placement
    if isinstance(where, AffinePlacement):
        a, b, c, d, e, f = where.transform[:6]
        matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        return {34264: (_DOUBLE, matrix)} | _geo_keys(place.crs)
    if isinstance(where, GcpPlacement):
        ties = [n for column, row, x, y, z in where.points for n in (column, row, 0.0, x, y, z)]
        return {33922: (_DOUBLE, tuple(ties))} | _geo_keys(place.crs)
    if isinstance(where, RpcPlacement):
        stated = dict(where.metadata)
        names = [f"{axis}_{kind}" for kind in ("OFF", "SCALE") for axis in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")]
        single = [float(stated.get(name, -1)) for name in ("ERR_BIAS", "ERR_RAND", *names)]
        series = [float(n) for name in RPC_COEFFICIENTS for n in stated[name].split()]
        return {50844: (_DOUBLE, (*single, *series))}
    return {}


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
