"""Tiles that are empty according to the smallest overview, so that they need not be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotile.core.rasterio_env import READ_ERRORS
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.masks import has_data
from geotile.imagery.open_files import open_file
from geotile.imagery.source import Source
from geotile.storage.gdal_cache import LARGE_CACHE_BYTES

# With averaging, every pixel with data counts, even a single one. Nearest neighbour and cubic resampling lose small
# objects surrounded by nodata (3 x 3 pixels at a reduction of 8), and most files do not name their resampling.
_SAFE_RESAMPLING = ("AVERAGE", "RMS")
_MAX_OVERVIEW_SIDE_PX = 4096


def empty_tiles(source: Source, grid: TileGrid) -> NDArray[np.bool_] | None:
    """Return which tiles have no pixel with data, according to an overview that was made by averaging.

    Returns
    -------
    numpy.ndarray or None
        (tiles down, tiles across) bool; None if the file has no such overview, or no nodata value.
    """
    if source.nodata is None or not source.overviews or source.resampled or source.masked:
        return None
    try:
        level = len(source.overviews) - 1
        with (
            source.location.environment(LARGE_CACHE_BYTES),
            open_file(source.location, source.allow_vrt, overview_level=level) as overview,
        ):
            resampling = str(overview.tags(source.bands[0]).get("RESAMPLING", ""))
            if not resampling.startswith(_SAFE_RESAMPLING) or max(overview.shape) > _MAX_OVERVIEW_SIDE_PX:
                return None
            data = has_data(overview.read(list(source.bands)), source.nodata)
    except READ_ERRORS:
        return None  # a damaged overview must not stop the run: the tiles themselves are read
    assert data is not None  # there is a nodata value
    return _tiles_without_data(data, grid, source)


def _tiles_without_data(data: NDArray[np.bool_], grid: TileGrid, source: Source) -> NDArray[np.bool_]:
    """Return which tiles have no data, with a margin of one pixel of the overview.

    Parameters
    ----------
    data : numpy.ndarray
        (y, x) bool, the pixels of the overview with data.
    grid : TileGrid
    source : Source
    """
    sums = np.zeros((data.shape[0] + 1, data.shape[1] + 1), np.int64)
    sums[1:, 1:] = data.cumsum(0).cumsum(1)
    bounds = []
    for axis, small, whole, origin in zip(grid.axes, data.shape, source.whole_yx, source.origin_yx, strict=True):
        scale = small / whole
        stops = origin + np.minimum(axis.starts + axis.tile, axis.length)
        low = np.clip(np.floor((origin + axis.starts) * scale).astype(int) - 1, 0, small)
        bounds.append((low, np.clip(np.ceil(stops * scale).astype(int) + 1, 0, small)))
    (y0, y1), (x0, x1) = bounds
    count = sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)]
    return np.asarray(count == 0)
