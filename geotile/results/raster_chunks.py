"""The chunks of a raster's Zarr array.

They are encoded by the codec itself: zarr's event loop takes ten times as long for a chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.grid.tile_grid import Window

LEVEL = 0  # of Zstandard: zarr's own default


@dataclass(frozen=True)
class ChunkEncoder:
    """Encoder of a block's chunks: little-endian numbers in C order, compressed by Zstandard.

    Parameters
    ----------
    chunk_yx : tuple of int
        Height and width of a chunk in pixels.
    fill_value : int or float
        Value of chunks that are absent.

    Examples
    --------
    >>> encoder = ChunkEncoder((2, 2), 255)
    >>> block = np.array([[7, 8, 255], [9, 7, 255]], np.uint8)
    >>> [(name, content is None) for name, content in encoder.encode(Window(2, 4, 0, 3), block)]
    [('c/1/0', False), ('c/1/1', True)]
    """

    chunk_yx: tuple[int, int]
    fill_value: float

    @classmethod
    def of(cls, array: bytes) -> ChunkEncoder:
        """Return the encoder of an array, given its ``zarr.json``.

        Raises
        ------
        ValueError
            If its chunks are encoded in another way.
        """
        described: dict[str, Any] = json.loads(array)
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": LEVEL, "checksum": False}},
        ]
        found = [
            codec if codec["name"] != "bytes" else codecs[0] for codec in described["codecs"]
        ]  # bytes have no endian
        if found != codecs or described["chunk_key_encoding"]["configuration"]["separator"] != "/":
            raise ValueError(f"the chunks of the store must be encoded by {codecs}; got {described['codecs']}")
        height, width = described["chunk_grid"]["configuration"]["chunk_shape"][-2:]
        return cls((height, width), float(described["fill_value"]))

    def encode(self, window: Window, values: NDArray[Any]) -> Iterator[tuple[str, bytes | None]]:
        """Yield the chunks of a block: their names in the array's folder and their content, None if all is nodata.

        Parameters
        ----------
        window : Window
            The block's pixels, which begin where chunks begin.
        values : numpy.ndarray
            (y, x) or (band, y, x).
        """
        from numcodecs import Zstd

        codec = Zstd(level=LEVEL)
        height, width = self.chunk_yx
        rows, columns = (range(0, n, side) for n, side in zip(values.shape[-2:], self.chunk_yx, strict=True))
        lead = "c/" + "0/" * (values.ndim - 2)
        for y, x in product(rows, columns):
            part = values[..., y : y + height, x : x + width]
            name = f"{lead}{(window.y0 + y) // height}/{(window.x0 + x) // width}"
            yield name, None if self._is_empty(part) else codec.encode(self._whole(part))

    def _is_empty(self, part: NDArray[Any]) -> bool:
        """Return whether all values are the one of absent chunks."""
        first = part[..., 0, 0]  # tells most chunks
        return bool(self._is_nodata(first).all() and self._is_nodata(part).all())

    def _is_nodata(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(np.isnan(values) if np.isnan(self.fill_value) else values == self.fill_value)

    def _whole(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return a chunk whose values outside the array are those of absent chunks."""
        whole = np.empty((*part.shape[:-2], *self.chunk_yx), part.dtype.newbyteorder("<"))
        if part.shape != whole.shape:
            whole[...] = self.fill_value
        whole[..., : part.shape[-2], : part.shape[-1]] = part
        return whole
