"""Tiles that a look at the smallest overview shows to be empty, so that nothing of them is read."""

from __future__ import annotations

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from geotile.grid.tile_grid import TileGrid
from geotile.imagery.masks import has_data
from geotile.imagery.source import DRIVERS, Source

# Averaging counts every pixel that has data, however few. Nearest neighbour and cubic lose small
# objects in nodata (3 x 3 pixels at a reduction of 8), and most files do not say how they were made.
_SAFE = ("AVERAGE", "RMS")
_LARGEST_SIDE = 4096


def empty_tiles(source: Source, grid: TileGrid) -> NDArray[np.bool_] | None:
    """Tell which tiles have no pixel with data, by an overview that says it was averaged.

    Returns
    -------
    numpy.ndarray or None
        (tiles down, tiles across) bool; None where the file does not tell.
    """
    if source.nodata is None or not source.overviews or source.resampled or source.masked:
        return None
    try:
        with (
            source.location.environment(),
            rasterio.DatasetReader(
                source.location.path, driver=None if source.trusted else list(DRIVERS),
                overview_level=len(source.overviews) - 1,
            ) as small,
        ):  # fmt: skip
            said = str(small.tags(source.bands[0]).get("RESAMPLING", ""))
            if not said.startswith(_SAFE) or max(small.shape) > _LARGEST_SIDE:
                return None
            data = has_data(small.read(list(source.bands)), source.nodata)
    except (RasterioError, OSError):
        return None  # an overview that does not read is no reason to stop: the tiles are looked at themselves
    assert data is not None  # there is a nodata value
    return _without(data, grid, source)


def _without(data: NDArray[np.bool_], grid: TileGrid, source: Source) -> NDArray[np.bool_]:
    """Return the tiles under which, grown by a pixel of the overview, there are no pixels with data."""
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
