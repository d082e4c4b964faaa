"""The regions of an image, each with the halo that its own tiles need; the only module that adds halos.

::

    a file                                windows with the halo, read by the region's own task
    a computed array, on threads          dask.array.overlap, cut to what each region needs
    a computed array, on a cluster        strips copied from neighbouring chunks (`strips`)

All three give the same pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.overlap import overlap
from dask.delayed import delayed
from numpy.typing import NDArray

from geotile.core.dask_info import active_client
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.masks import nodata_of
from geotile.imagery.region_pixels import ArrayRegion, FileRegion
from geotile.imagery.source import Source
from geotile.imagery.strips import with_strips


def map_overlap(
    image: xr.DataArray, source: Source | None, grid: TileGrid, run: str, *, in_groups: bool = False
) -> da.Array:  # fmt: skip
    """Return the regions of an image with their halo.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), lazy or in memory.
    source : Source or None
        File that the image is read from; None for a computed array.
    grid : TileGrid
    run : str
        Name of the run; it names the tasks.
    in_groups : bool, default False
        Whether the tiles that reach beyond a region are read apart from the others.

    Returns
    -------
    dask.array.Array
        (1, regions down, regions across) of `Region`, one per chunk.
    """
    chunks = ((1,), *((1,) * count for count in grid.regions_yx))
    form: dict[str, Any] = {"dtype": object, "meta": np.empty((0, 0, 0), object), "chunks": chunks}
    if source is not None:
        shared = delayed(
            (source, grid, run, in_groups), name=f"image-{run}", traverse=False
        )  # one key, so that tasks stay small
        return da.map_blocks(_file_region, shared=shared, name=f"read-region-{run}", **form)
    pixels = array_overlap(image, grid, run)
    nodata = nodata_of(image)
    shared = delayed(grid, name=f"grid-{run}", traverse=False)
    return pixels.map_blocks(partial(_array_region, nodata=nodata), grid=shared, name=f"region-pixels-{run}", **form)


def array_overlap(image: xr.DataArray, grid: TileGrid, run: str) -> da.Array:
    """Return the regions of a computed array with at least the halo that their tiles need, as (band, y, x) chunks."""
    data = image.data if isinstance(image.data, da.Array) else da.from_array(image.data, (-1, *grid.chunks))
    data = data.rechunk((-1, *grid.chunks))
    return with_strips(data, grid, run) if active_client() is not None else with_dask_overlap(data, grid)


def with_dask_overlap(data: da.Array, grid: TileGrid) -> da.Array:
    """Return an array's regions with trailing halos as deep as the deepest one, by Dask's own overlap."""
    y, x = grid.depth_yx
    depth: dict[int, Any] = {0: 0, 1: (0, y), 2: (0, x)}
    return overlap(data, depth, boundary="none", allow_rechunk=False)


def _file_region(shared: tuple[Source, TileGrid, str, bool], block_id: tuple[int, int, int]) -> FileRegion:
    source, grid, run, in_groups = shared
    return FileRegion(source, grid, run, *block_id[1:], in_groups)


def _array_region(
    values: NDArray[Any], grid: TileGrid, nodata: float | None, block_id: tuple[int, int, int]
) -> ArrayRegion:
    _, row, column = block_id
    window = grid.read_window(row, column)
    height, width = window.shape_yx
    return ArrayRegion(values[:, :height, :width], window, nodata)
