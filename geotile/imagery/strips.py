"""The halo of a computed array: strips copied from neighbouring chunks.

`dask.array.map_overlap` keeps whole chunks until all their neighbours are computed, and moves them between workers
(dask #3671, distributed #3898). Here the strips that neighbouring regions need are copied out of a chunk, so that the
chunk itself is only kept for the task of its own region::

    chunk (i, j) ───────────────────────────┐
    chunk (i, j+1) ─ left strip ────────────┤
    chunk (i+1, j) ─ upper strip ───────────┼─▶ region (i, j) with its trailing halo
    chunk (i+1, j+1) ─ upper left corner ───┘
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.grid.tile_grid import TileGrid


def with_strips(data: da.Array, grid: TileGrid, run: str) -> da.Array:
    """Return the regions of an array with the trailing halo that their own tiles need.

    Parameters
    ----------
    data : dask.array.Array
        (band, y, x); its chunks are the regions of the grid.
    grid : TileGrid
    run : str
        Name of the run; it names the tasks.

    Returns
    -------
    dask.array.Array
        (band, y, x), one chunk per region. A chunk contains pixels of its neighbours, so chunks overlap.
    """
    down, across = grid.regions_yx
    strip, region = f"halo-strip-{run}", f"joined-strips-{run}"
    strips: dict[Any, Any] = {}
    regions: dict[Any, Any] = {}
    shapes = [[grid.read_window(row, column).shape_yx for column in range(across)] for row in range(down)]

    def add_strip(row: int, column: int, height: int, width: int, side: int) -> Any:
        """Add the task that copies a strip out of a chunk; return its key, None for an empty strip."""
        if not height or not width:
            return None
        key = (strip, side, row, column)
        strips[key] = (_cut, (data.name, 0, row, column), height, width)
        return key

    for row in range(down):
        for column in range(across):
            own = grid.region_window(row, column).shape_yx
            reach_y, reach_x = (a - b for a, b in zip(shapes[row][column], own, strict=True))
            regions[region, 0, row, column] = (
                _joined, (data.name, 0, row, column), reach_y, reach_x,
                add_strip(row, column + 1, own[0], reach_x, 0),
                add_strip(row + 1, column, reach_y, own[1], 1),
                add_strip(row + 1, column + 1, reach_y, reach_x, 2),
            )  # fmt: skip
    graph = HighLevelGraph.from_collections(strip, strips, dependencies=[data])
    layers = {**graph.layers, region: regions}
    depends = {**graph.dependencies, region: {strip, data.name}}
    chunks = (data.chunks[0], tuple(each[0][0] for each in shapes), tuple(each[1] for each in shapes[0]))
    return da.Array(HighLevelGraph(layers, depends), region, chunks, dtype=data.dtype, meta=data._meta)


def halo_first(key: Any) -> int:
    """Return the priority of a task on a cluster: chunks from the last to the first, everything else immediately.

    A halo lies below and to the right of its region. If chunks are computed from the last to the first, the halo of
    each chunk exists already, and only one row of strips is kept.
    """
    if (
        not isinstance(key, tuple)
        or len(key) != 4
        or str(key[0]).startswith(("detect-region", "halo-strip", "joined-strips", "region-pix"))
    ):
        return 2**60
    _, _, row, column = key
    return int(row) * 2**30 + int(column)


def _cut(chunk: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return a copy of a strip, so that keeping the strip does not keep the chunk in memory."""
    return chunk[:, :height, :width].copy()


def _joined(
    chunk: NDArray[Any], reach_y: int, reach_x: int,
    right: NDArray[Any] | None, below: NDArray[Any] | None, corner: NDArray[Any] | None,
) -> NDArray[Any]:  # fmt: skip
    """Return a chunk with its trailing halo."""
    bands, height, width = chunk.shape
    if not reach_y and not reach_x:
        return chunk
    whole = np.empty((bands, height + reach_y, width + reach_x), chunk.dtype)
    whole[:, :height, :width] = chunk
    for part, rows, columns in (
        (right, slice(0, height), slice(width, None)),
        (below, slice(height, None), slice(0, width)),
        (corner, slice(height, None), slice(width, None)),
    ):
        if part is not None:
            whole[:, rows, columns] = part
    return whole
