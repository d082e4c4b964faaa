"""Advice on images that are slow to read or need much memory, given before they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geotile.grid.tile_grid import TileGrid
from geotile.imagery.source import Source

_LARGE_REGION_BYTES = 256 * 2**20
_LARGE_BLOCK_BYTES = 64 * 2**20
_TO_COG = "convert it to a COG (rio cogeo create, gdal_translate -of COG)"


def advice_on(source: Source, grid: TileGrid) -> Iterator[str]:
    """Yield what makes an image slow to read or large in memory, and how to improve it."""
    yield from _layout_advice(source, grid)
    bands = source.shape[0]
    if source.interleave == "pixel" and bands * 2 <= source.file_bands:
        yield f"{bands} of {source.file_bands} bands are read; the others are decoded too, since pixels store all bands"
    heights = (grid.read_window(row, 0).shape_yx for row in range(grid.regions_yx[0]))
    region_bytes = max(int(np.prod(shape)) for shape in heights) * _pixel_bytes(source)
    if region_bytes > _LARGE_REGION_BYTES:
        yield f"each thread needs {megabytes(region_bytes)} for a region: reduce tile_size or overlap, or {_TO_COG}"


def _layout_advice(source: Source, grid: TileGrid) -> Iterator[str]:
    """Yield advice on the way in which the file stores its blocks."""
    block_y, block_x = source.block_yx
    block_bytes = block_y * block_x * _pixel_bytes(source)
    name = "a TIFF of one strip" if source.driver == "GTiff" else source.driver
    if source.sequential:
        if grid.n_regions == 1:
            yield f"{name} is decoded from the top: the whole image is one region, read by one thread; {_TO_COG}"
        else:
            yield f"{name} is decoded from the top, again for each of {grid.n_regions} regions; {_TO_COG}"
    elif source.one_codestream and not source.resampled:
        yield f"the file is a JPEG 2000 of one tile: its code-stream is parsed again for each block; {_TO_COG}"
    elif block_bytes > _LARGE_BLOCK_BYTES:
        yield f"a block has {block_x} x {block_y} pixels ({megabytes(block_bytes)}) and is decoded whole; {_TO_COG}"
    elif block_x >= source.shape[2] > 2 * grid.axes[1].tile and block_y < grid.axes[0].tile:
        yield (
            f"the file is stored in strips {block_x} pixels wide: regions are wide and low, and their halos are long; "
            f"{_TO_COG}"
        )


def _pixel_bytes(source: Source) -> int:
    """Return the size of a pixel of all bands in bytes."""
    return int(source.shape[0] * np.dtype(source.dtype).itemsize)


def megabytes(size: int) -> str:
    """Return a number of bytes as text in MB or kB."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
