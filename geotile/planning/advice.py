"""What makes an image slow or large to read, said before it is read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geotile.grid.tile_grid import TileGrid
from geotile.imagery.source import Source

_LARGE_REGION = 256 * 2**20
_BIG_BLOCK = 64 * 2**20


def advice_on(source: Source, grid: TileGrid) -> Iterator[str]:
    """Say what makes an image slow or large to read, and what would help."""
    bands, _, width = source.shape
    pixel = bands * np.dtype(source.dtype).itemsize
    block_y, block_x = source.block_yx
    name = "a TIFF of one strip" if source.driver == "GTiff" else source.driver
    cog = "convert it to a COG (rio cogeo create, gdal_translate -of COG)"
    if source.sequential:
        if grid.n_regions == 1:
            yield f"{name} is decoded from the top: the whole image is one region, read by one thread; {cog}"
        else:
            yield f"{name} is decoded from the top, again for each of {grid.n_regions} regions; {cog}"
    elif source.one_codestream and not source.resampled:
        yield f"a JPEG 2000 of one tile: its code-stream is gone through again for each block; {cog}"
    elif block_y * block_x * pixel > _BIG_BLOCK:
        size = megabytes(block_y * block_x * pixel)
        yield f"a block is {block_x} x {block_y} pixels ({size}): it is decoded whole; {cog}"
    elif block_x >= width > 2 * grid.axes[1].tile and block_y < grid.axes[0].tile and not source.sequential:
        yield f"the file is in strips {block_x} pixels wide: regions are wide and low, and their halos long; {cog}"
    if source.interleave == "pixel" and bands * 2 <= source.file_bands:
        yield f"{bands} of {source.file_bands} bands, stored pixel by pixel: the others are decoded too"
    largest = max(int(np.prod(grid.read_window(row, 0).shape_yx)) for row in range(grid.regions_yx[0])) * pixel
    if largest > _LARGE_REGION:
        yield f"a region takes {megabytes(largest)} in each thread: give a smaller tile_size or overlap, or {cog}"


def megabytes(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e6:,.1f} MB"
