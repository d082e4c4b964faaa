"""Uncompressed GeoTIFF tiles.

GDAL's writer takes about six times as long and tifffile's up to 2.7 times, so the header is written here, in front of
the tile's bytes (decision 9 in ARCHITECTURE.md). GDAL supplies the tags of the CRS, once per run.
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
_FORMATS = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _ASCII: "s"}
_GEO_KEY_TAGS = (34735, 34736, 34737)  # GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams

Tags = dict[int, tuple[int, Any]]  # TIFF tag -> (field type, values)


def encode_geotiff(pixels: NDArray[Any], georeference: Georeference, nodata: float | None) -> memoryview:
    """Return a TIFF 6.0 file with GeoTIFF 1.1 tags and one uncompressed strip, interleaved by pixel.

    The pixels are copied once, to their place in the file.

    Parameters
    ----------
    pixels : numpy.ndarray
        (band, y, x), integers or floats.
    georeference : Georeference
        Georeference of these pixels.
    nodata : float or None
        Nodata value, written as GDAL's tag.
    """
    tags = _image_tags(pixels) | _georeference_tags(georeference)
    if nodata is not None:
        tags[42113] = (_ASCII, f"{nodata:.17g}\0".encode())
    tags[273] = (_LONG, (len(_header(tags)),))  # StripOffsets: the strip follows the header
    header = _header(tags)
    file = np.empty(len(header) + pixels.nbytes, np.uint8)
    file[: len(header)] = np.frombuffer(header, np.uint8)
    strip = file[len(header) :].view(pixels.dtype.newbyteorder("<")).reshape(*pixels.shape[1:], len(pixels))
    for band, values in enumerate(pixels):  # ten times faster than moving the axis in one copy
        strip[..., band] = values
    return file.data


def _image_tags(pixels: NDArray[Any]) -> Tags:
    """Return the tags that describe pixels, (band, y, x)."""
    bands, height, width = pixels.shape
    colours = 3 if bands in (3, 4) and pixels.dtype.kind == "u" else 1
    sample_format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags: Tags = {
        256: (_LONG, (width,)),  # ImageWidth
        257: (_LONG, (height,)),  # ImageLength
        258: (_SHORT, (8 * pixels.dtype.itemsize,) * bands),  # BitsPerSample
        259: (_SHORT, (1,)),  # Compression: none
        262: (_SHORT, (2 if colours == 3 else 1,)),  # PhotometricInterpretation: RGB or black is zero
        273: (_LONG, (0,)),  # StripOffsets, set once the length of the header is known
        277: (_SHORT, (bands,)),  # SamplesPerPixel
        278: (_LONG, (height,)),  # RowsPerStrip
        279: (_LONG, (pixels.nbytes,)),  # StripByteCounts
        284: (_SHORT, (1,)),  # PlanarConfiguration: interleaved by pixel
        339: (_SHORT, (sample_format,) * bands),  # SampleFormat
    }
    if bands > colours:
        tags[338] = (_SHORT, (0,) * (bands - colours))  # ExtraSamples: unspecified
    return tags


def _georeference_tags(georeference: Georeference) -> Tags:
    """Return the tags of the georeference: a transform, tie points, or RPCs (GDAL's tag 50844)."""
    placement = georeference.placement
    if isinstance(placement, AffinePlacement):
        a, b, c, d, e, f = placement.transform[:6]
        matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        return {34264: (_DOUBLE, matrix)} | _geo_key_tags(georeference.crs)
    if isinstance(placement, GcpPlacement):
        tie_points = [n for column, row, x, y, z in placement.points for n in (column, row, 0.0, x, y, z)]
        return {33922: (_DOUBLE, tuple(tie_points))} | _geo_key_tags(georeference.crs)
    if isinstance(placement, RpcPlacement):
        metadata = dict(placement.metadata)
        names = [f"{axis}_{kind}" for kind in ("OFF", "SCALE") for axis in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")]
        single = [float(metadata.get(name, -1)) for name in ("ERR_BIAS", "ERR_RAND", *names)]
        coefficients = [float(n) for name in RPC_COEFFICIENTS for n in metadata[name].split()]
        return {50844: (_DOUBLE, (*single, *coefficients))}
    return {}


def _header(tags: Tags) -> bytes:
    """Return the file header and one image file directory, followed by the values longer than 4 bytes."""
    entries, values_after = [], b""
    directory_end = 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        field_type, values = tags[tag]
        raw = values if field_type == _ASCII else struct.pack(f"<{len(values)}{_FORMATS[field_type]}", *values)
        value_or_offset = raw.ljust(4, b"\0")
        if len(raw) > 4:
            value_or_offset = struct.pack("<I", directory_end + len(values_after))
            values_after += raw + b"\0" * (len(raw) % 2)
        entries.append(struct.pack("<HHI", tag, field_type, len(values)) + value_or_offset)
    padding = b"\0" * (-(directory_end + len(values_after)) % 16)
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + values_after + padding


@lru_cache(maxsize=16)
def _geo_key_tags(crs: str | None) -> Tags:
    """Return the GeoKey tags that GDAL writes for a CRS."""
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=1, width=1, dtype="uint8", crs=crs, transform=Affine.translation(1, 1)
        ) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        raw = bytes(memory.getbuffer())
    directory = struct.unpack_from("<I", raw, 4)[0]
    tags: Tags = {}
    for i in range(struct.unpack_from("<H", raw, directory)[0]):
        entry = directory + 2 + 12 * i
        tag, field_type, count = struct.unpack_from("<HHI", raw, entry)
        if tag in _GEO_KEY_TAGS:
            size = count * {_SHORT: 2, _DOUBLE: 8, _ASCII: 1}[field_type]
            start = struct.unpack_from("<I", raw, entry + 8)[0] if size > 4 else entry + 8
            data = raw[start : start + size]
            values = data if field_type == _ASCII else struct.unpack(f"<{count}{_FORMATS[field_type]}", data)
            tags[tag] = (field_type, values)
    return tags
