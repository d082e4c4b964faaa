"""A Dask array whose chunks are windows of a file.

A crop or a selection of bands of it is such an array again, so that only the windows of the crop are read. The
result of any other operation is an ordinary, computed Dask array.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.masks import nodata_of
from geotile.imagery.source import Source

Chunks = tuple[tuple[int, ...], tuple[int, ...]]
_SOURCE = "geotile_source"  # annotation of the graph layer that reads the file


class FileArray(da.Array):  # type: ignore[misc]  # dask is not typed
    """A Dask array (band, y, x), or (y, x) of one band, that reads a file window by window."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the same class."""
        return FileArray, (self.dask, self.name, self.chunks, self.dtype, self._meta)

    def copy(self) -> FileArray:
        """Return an array of its own: assigning to it (``copy[...] = 0``) does not change this one."""
        return FileArray(self.dask, self.name, self.chunks, self.dtype, self._meta)

    def __getitem__(self, index: Any) -> Any:
        """Return a crop or a selection of bands as windows of the file, anything else as a computed array."""
        source = source_of(self)
        keys = None if source is None else _as_keys(index, self.ndim)
        cropped = None if source is None or keys is None else _cropped(source, self.chunks[-2:], *keys)
        return super().__getitem__(index) if cropped is None else cropped


def file_array(source: Source, chunks: Chunks, *, flat: bool = False) -> FileArray:
    """Return the pixels of a source as a lazy array.

    Parameters
    ----------
    source : Source
        File to read.
    chunks : tuple of tuple of int
        Heights and widths of the regions in pixels.
    flat : bool
        Whether the array has dims (y, x), of the source's only band, instead of (band, y, x).
    """
    data = da.map_blocks(
        _read_chunk,
        chunks=chunks if flat else ((source.shape[0],), *chunks),
        dtype=source.dtype,
        meta=np.empty((0, 0) if flat else (0, 0, 0), source.dtype),
        source=source,
        regions=chunks,
        name=f"open-image-{tokenize(source, chunks, flat)}",
    )
    data.dask.layers[data.name].collection_annotations[_SOURCE] = source
    return FileArray(data.dask, data.name, data.chunks, data.dtype, data._meta)


def source_of(data: Any) -> Source | None:
    """Return the file that an array reads, or None if the array is computed."""
    graph = getattr(data, "dask", None)
    layer = getattr(graph, "layers", {}).get(getattr(data, "name", None))
    annotations = getattr(layer, "collection_annotations", None) or {}
    source: Source | None = annotations.get(_SOURCE)
    return source


def file_of(image: xr.DataArray) -> Source | None:
    """Return the file that an image reads, or None if it is computed.

    The image's own nodata value holds, which users may have written or removed since the file was opened.
    """
    source = source_of(image.data)
    if source is None or source.steps:
        return source
    return replace(source, nodata=nodata_of(image))


def _read_chunk(source: Source, regions: Chunks, block_id: tuple[int, ...]) -> NDArray[Any]:
    *band, row, column = block_id
    grid = TileGrid((source.shape[1], source.shape[2]), 1, 0, regions)
    values = source.read(grid.region_window(row, column)).values
    return values if band else values[0]


def _as_keys(index: Any, ndim: int) -> tuple[Any, Any, Any, bool] | None:
    """Return an index as keys of band, y and x, and whether the band axis is dropped; None for any other index."""
    keys = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(key, np.ndarray) and key.ndim != 1 for key in keys):
        return None
    adds_band = ndim == 2 and bool(keys) and keys[0] is None
    keys = keys[1:] if adds_band else keys
    if any(key is None for key in keys) or sum(key is Ellipsis for key in keys) > 1:
        return None
    missing = ndim - len([key for key in keys if key is not Ellipsis])
    if missing < 0:
        return None
    at = next((i for i, key in enumerate(keys) if key is Ellipsis), len(keys))
    keys = [*keys[:at], *[slice(None)] * missing, *keys[at + 1 :]]
    if ndim == 2:
        return slice(None), keys[0], keys[1], not adds_band
    return keys[0], keys[1], keys[2], isinstance(keys[0], int | np.integer)


def _cropped(source: Source, chunks: Chunks, band: Any, y: Any, x: Any, flat: bool) -> FileArray | None:
    bands, rows, columns = _indices(band, source.shape[0]), _range(y, source.shape[1]), _range(x, source.shape[2])
    if bands is None or rows is None or columns is None:
        return None
    selected = source.with_bands(bands)
    if selected is None:
        return None
    window = Window(rows.start, rows.stop, columns.start, columns.stop)
    kept = _kept_chunks(chunks[0], rows), _kept_chunks(chunks[1], columns)
    return file_array(selected.cropped(window), kept, flat=flat)


def _indices(key: Any, length: int) -> tuple[int, ...] | None:
    """Return the bands that a key selects, by index from 0; None if it does not select at least one band."""
    if isinstance(key, slice):
        indices = list(range(length))[key]
    elif isinstance(key, int | np.integer):
        indices = [int(key)]
    elif isinstance(key, list | np.ndarray) and np.asarray(key).dtype.kind in "iu":
        indices = [int(each) for each in key]
    else:
        return None
    if not indices or not all(-length <= each < length for each in indices):
        return None
    return tuple(each % length for each in indices)


def _range(key: Any, length: int) -> range | None:
    """Return the pixels that a slice selects, None if there are none or they are not contiguous."""
    if not isinstance(key, slice):
        return None
    try:
        pixels = range(*key.indices(length))
    except (TypeError, ValueError):
        return None
    return pixels if len(pixels) and pixels.step == 1 else None


def _kept_chunks(chunks: tuple[int, ...], kept: range) -> tuple[int, ...]:
    """Return the sizes of the parts of chunks that lie in a range."""
    stops = np.cumsum(chunks)
    starts = stops - chunks
    sizes = np.minimum(stops, kept.stop) - np.maximum(starts, kept.start)
    return tuple(int(size) for size in sizes[sizes > 0])
