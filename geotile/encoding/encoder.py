"""Encoder of tiles in the formats that requests may carry: GTIFF, NITF, PNG, JPEG, NPY."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geotile.core.choices import TileCompression, TileFormat
from geotile.core.rasterio_env import ignore_georeference_warnings, memory_env
from geotile.encoding.geotiff import encode_geotiff
from geotile.encoding.nitf import nitf_options
from geotile.errors import ArgumentError
from geotile.geometry.georeference import NO_GEOREFERENCE, Georeference
from geotile.grid.tile_grid import Window

CONTENT_TYPES = {
    "GTIFF": "image/tiff",
    "NITF": "image/nitf",
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "NPY": "application/x-npy",
}
_NITF_DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_SUPPORTED: dict[str, tuple[tuple[str, ...], Sequence[int], str]] = {  # dtypes, numbers of bands, the same in words
    "PNG": (("uint8", "uint16"), range(1, 5), "1 to 4 bands"),
    "JPEG": (("uint8",), (1, 3), "1 or 3 bands"),
    "NITF": (_NITF_DTYPES, range(1, 1000), "1 to 999 bands"),
}
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}}
_COMPRESSED: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {  # driver and creation options
    ("GTIFF", "LZW"): ("GTiff", {"compress": "LZW", "predictor": 2}),
    ("GTIFF", "JPEG"): ("GTiff", {"compress": "JPEG", "jpeg_quality": 95}),
    ("NITF", "JPEG"): ("NITF", {"IC": "C3", "QUALITY": "95"}),
    ("NITF", "J2K"): ("NITF", {"IC": "C8", "PROFILE": "NPJE_NUMERICALLY_LOSSLESS"}),
}


@dataclass(frozen=True)
class Encoder:
    """Encoder of the pixels of a tile.

    Parameters
    ----------
    format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
        Format of the tiles. A GTIFF tile carries its own transform and CRS, its ground control points or its shifted
        RPCs; a NITF tile carries its corners (IGEOLO, BLOCKA) or RPC00B. JPEG is lossy.
    georeference : Georeference
        Georeference of the whole image.
    nodata : float, optional
        Nodata value that GTIFF tiles carry.
    compression : {"NONE", "LZW", "JPEG", "J2K"}
        Compression of the pixels in a GTIFF (LZW, JPEG) or a NITF (JPEG, J2K). JPEG is lossy; J2K is lossless here.
    """

    format: TileFormat
    georeference: Georeference = NO_GEOREFERENCE
    nodata: float | None = None
    compression: TileCompression = "NONE"

    def check(self, dtype: str, bands: int) -> None:
        """Raise an error if the format or the compression does not support an image.

        Raises
        ------
        ArgumentError
            If the format or the compression is unknown, or does not support the dtype or the number of bands.
        """
        if self.format not in get_args(TileFormat):
            raise ArgumentError(f"tile_format must be one of {_listed(get_args(TileFormat))}; got {self.format!r}")
        pixels = f"the image has {bands} {'band' if bands == 1 else 'bands'} of {dtype}"
        if self.format == "GTIFF" and np.dtype(dtype).kind not in "uif":
            raise ArgumentError(f"tile_format='GTIFF' supports integers and floats; {pixels}. Cast the image first")
        if self.format in _SUPPORTED:
            dtypes, band_counts, in_words = _SUPPORTED[self.format]
            if dtype not in dtypes or bands not in band_counts:
                raise ArgumentError(
                    f"tile_format={self.format!r} supports {in_words} of {_listed(dtypes)}; {pixels}. Use "
                    "tile_format='GTIFF' or select bands"
                )
        if self.compression != "NONE":
            self._check_compression(dtype, bands, pixels)

    def _check_compression(self, dtype: str, bands: int, pixels: str) -> None:
        check_combination(self.format, self.compression)
        if self.compression == "JPEG" and (dtype != "uint8" or bands not in (1, 3)):
            raise ArgumentError(
                f"tile_compression='JPEG' supports 1 or 3 bands of 'uint8'; {pixels}. Use tile_compression='NONE' or "
                "select bands"
            )
        if self.compression == "J2K" and dtype not in ("uint8", "uint16", "int16"):
            raise ArgumentError(
                f"tile_compression='J2K' supports 'uint8', 'uint16' or 'int16'; {pixels}. Use tile_compression='NONE'"
            )

    @property
    def content_type(self) -> str:
        """Media type of the bytes."""
        return CONTENT_TYPES[self.format]

    def encode(self, pixels: NDArray[Any], window: Window) -> bytes:
        """Encode a tile; see `encode_buffer`."""
        return bytes(self.encode_buffer(pixels, window))

    def encode_buffer(self, pixels: NDArray[Any], window: Window) -> bytes | memoryview:
        """Encode a tile.

        Parameters
        ----------
        pixels : numpy.ndarray
            (band, y, x), pixels of the tile.
        window : Window
            Window of the tile in the image; its upper-left corner gives the tile's georeference.

        Returns
        -------
        bytes or memoryview
        """
        if self.compression != "NONE":
            return self._encode_compressed(pixels, window)
        if self.format == "GTIFF":
            return encode_geotiff(pixels, self._tile_georeference(window), self.nodata)
        if self.format == "NITF":
            options = nitf_options(self._tile_georeference(window), pixels.shape[1], pixels.shape[2])
            return _encode_with_gdal(pixels, "NITF", options)
        if self.format == "NPY":
            buffer = io.BytesIO()
            np.save(buffer, pixels, allow_pickle=False)
            return buffer.getvalue()
        return _encode_with_gdal(pixels, self.format, _OPTIONS.get(self.format, {}))

    def _encode_compressed(self, pixels: NDArray[Any], window: Window) -> bytes:
        driver, options = _COMPRESSED[self.format, self.compression]
        georeference = self._tile_georeference(window)
        if driver == "NITF":
            options = options | nitf_options(georeference, pixels.shape[1], pixels.shape[2])
        elif pixels.dtype.kind == "f" and "predictor" in options:
            options = options | {"predictor": 3}
        plain = encode_geotiff(pixels, georeference, self.nodata)
        with memory_env(), MemoryFile(bytes(plain)) as file, MemoryFile() as memory, ignore_georeference_warnings():
            with file.open() as source:
                rasterio.shutil.copy(source, memory.name, driver=driver, **options)
            return bytes(memory.getbuffer())

    def _tile_georeference(self, window: Window) -> Georeference:
        return self.georeference.for_pixels(Affine.translation(window.x0, window.y0))


def check_combination(format: str, compression: str) -> None:
    """Raise an ArgumentError if tiles of a format cannot be compressed in this way."""
    if compression != "NONE" and (format, compression) not in _COMPRESSED:
        allowed = ["NONE", *(compression for each, compression in _COMPRESSED if each == format)]
        raise ArgumentError(
            f"tile_compression must be {_listed(allowed)} for tile_format={format!r}; got {compression!r}"
        )


def _encode_with_gdal(pixels: NDArray[Any], driver: str, options: dict[str, Any]) -> bytes:
    bands, height, width = pixels.shape
    with memory_env(), MemoryFile() as memory:
        with ignore_georeference_warnings():
            file = memory.open(
                driver=driver, count=bands, height=height, width=width, dtype=pixels.dtype.name, **options
            )
        with file:
            file.write(pixels)
        return bytes(memory.getbuffer())


def _listed(values: Any) -> str:
    """Return values as text: "'a', 'b' or 'c'"."""
    *first, last = map(repr, values)
    return f"{', '.join(first)} or {last}" if first else last
