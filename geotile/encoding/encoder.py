"""Tiles as bytes for the wire: GTIFF, NITF, PNG, JPEG, NPY."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geotile.core.rasterio_env import ignore_georeference_warnings, memory_env
from geotile.encoding.geotiff import geotiff
from geotile.encoding.nitf import nitf_options
from geotile.errors import ArgumentError
from geotile.geometry.georeference import NOWHERE, Georeference
from geotile.grid.tile_grid import Window
from geotile.options import TileCompression, TileFormat

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
_COMPRESSED: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {  # driver and creation options
    ("GTIFF", "LZW"): ("GTiff", {"compress": "LZW", "predictor": 2}),
    ("GTIFF", "JPEG"): ("GTiff", {"compress": "JPEG", "jpeg_quality": 95}),
    ("NITF", "JPEG"): ("NITF", {"IC": "C3", "QUALITY": "95"}),
    ("NITF", "J2K"): ("NITF", {"IC": "C8", "PROFILE": "NPJE_NUMERICALLY_LOSSLESS"}),
}


@dataclass(frozen=True)
class Encoder:
    """Turns the pixels of a tile into bytes.

    Parameters
    ----------
    format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
        The tile's format. GTIFF carries the tile's own transform and CRS, its ground control
        points or its shifted RPCs; NITF its corners (IGEOLO, BLOCKA) or RPC00B; JPEG is lossy.
    georeference : Georeference
        Of the whole image.
    nodata : float, optional
        Written into a GTIFF tile.
    compression : {"NONE", "LZW", "JPEG", "J2K"}
        Of the pixels in a GTIFF (LZW, JPEG) or a NITF (JPEG, J2K). JPEG is lossy; J2K is written losslessly.
    """

    format: TileFormat
    georeference: Georeference = NOWHERE
    nodata: float | None = None
    compression: TileCompression = "NONE"

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
        if self.compression != "NONE" and (self.format, self.compression) not in _COMPRESSED:
            known = [name for kind, name in _COMPRESSED if kind == self.format]
            raise ArgumentError(
                f"tile_compression={self.compression!r} does not go with tile_format={self.format!r}; choose "
                f"{' or '.join(map(repr, ['NONE', *known]))}"
            )
        if self.compression == "JPEG" and (dtype != "uint8" or bands not in (1, 3)):
            raise ArgumentError(f"JPEG holds 1 or 3 bands of uint8; the image has {bands} of {dtype}")
        if self.compression == "J2K" and dtype not in ("uint8", "uint16", "int16"):
            raise ArgumentError(f"J2K holds uint8, uint16 and int16; the image has {dtype}")
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
        if self.compression != "NONE":
            return self._compressed(pixels, window)
        if self.format == "GTIFF":
            return geotiff(pixels, self._place(window), self.nodata)
        if self.format == "NITF":
            return _gdal(pixels, "NITF", nitf_options(self._place(window), pixels.shape[1], pixels.shape[2]))
        if self.format == "NPY":
            buffer = io.BytesIO()
            np.save(buffer, pixels, allow_pickle=False)
            return buffer.getvalue()
        return _gdal(pixels, self.format, _OPTIONS.get(self.format, {}))

    def _compressed(self, pixels: NDArray[Any], window: Window) -> bytes:
        driver, options = _COMPRESSED[self.format, self.compression]
        place = self._place(window)
        if driver == "NITF":
            options = options | nitf_options(place, pixels.shape[1], pixels.shape[2])
        elif pixels.dtype.kind == "f" and "predictor" in options:
            options = options | {"predictor": 3}
        plain = geotiff(pixels, place, self.nodata)
        with memory_env(), MemoryFile(plain) as file, MemoryFile() as memory, ignore_georeference_warnings():
            with file.open() as source:
                rasterio.shutil.copy(source, memory.name, driver=driver, **options)
            return bytes(memory.getbuffer())

    def _place(self, window: Window) -> Georeference:
        return self.georeference.seen_by(Affine.translation(window.x0, window.y0))


def _gdal(pixels: NDArray[Any], driver: str, options: dict[str, Any]) -> bytes:
    bands, height, width = pixels.shape
    with memory_env(), MemoryFile() as memory:
        with ignore_georeference_warnings():
            file = memory.open(
                driver=driver, count=bands, height=height, width=width, dtype=pixels.dtype.name, **options
            )
        with file:
            file.write(pixels)
        return bytes(memory.getbuffer())
