"""How large a region should be: by bytes, by the file's blocks, by what the threads can share."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
from dask.utils import parse_bytes
from numpy.typing import NDArray

from geotile.core.checks import Pair, as_pair
from geotile.core.dask_info import threads
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Axis, TileGrid

_REGIONS_PER_THREAD = 2  # at least, so that one slow region does not leave the other threads idle
_MOST_BYTES = 32 * 2**20  # larger regions were no faster, and a worker holds one a thread
_WHOLE_BYTES = 2**30
_MOST_REGIONS = 2**22  # 130 TB in regions of 32 MiB
_LARGEST_REGION_BYTES = 2**33


def plan_grid(
    shape: tuple[int, int, int],
    itemsize: int,
    block_edges: tuple[NDArray[np.int64], NDArray[np.int64]],
    tile_size: int | Pair,
    overlap: int | Pair,
    region_size: Any = "auto",
    whole: bool = False,
) -> TileGrid:
    """Choose regions on block edges and lay the tiles over them.

    Parameters
    ----------
    shape : tuple of int
        Bands, height and width of the image.
    itemsize : int
        Bytes of a pixel of one band.
    block_edges : tuple of numpy.ndarray
        Inner edges of the blocks on y and x, int64, in pixels.
    tile_size, overlap : int or tuple of int
        In pixels, or (y, x).
    region_size : "auto", int or tuple of int
        In pixels, or (y, x); "auto" goes by bytes: 32 MiB, less where Dask's ``array.chunk-size``
        is less or a thread would get fewer than two regions.
    whole : bool
        With "auto", one region of up to 1 GiB: for files that only read from the top.

    Returns
    -------
    TileGrid

    Raises
    ------
    ArgumentError
        If there would be more regions, or larger ones, than anybody can run.
    """
    bands, height, width = shape
    image = TileGrid((height, width), tile_size, overlap)  # checks the sizes
    if isinstance(region_size, str):
        if region_size != "auto":
            raise ArgumentError(f"region_size={region_size!r} must be 'auto', pixels, or (y, x) pixels")
        target = _from_the_top(shape, itemsize) if whole else _auto(image, bands * itemsize, block_edges)
    else:
        target = as_pair(region_size, "region_size", 1)
    count = int(
        np.prod(
            [
                min(n // size, len(edges)) + 1
                for n, size, edges in zip((height, width), target, block_edges, strict=True)
            ]
        )
    )
    if count > _MOST_REGIONS:
        raise ArgumentError(
            f"{width} x {height} pixels in regions of {target[1]} x {target[0]} would be {count:,} regions, more than "
            f"{_MOST_REGIONS:,}: check the image's header, or give a larger region_size"
        )
    y, x = (
        region_chunks(axis.length, axis.tile, axis.overlap, edges, size)
        for axis, edges, size in zip(image.axes, block_edges, target, strict=True)
    )
    grid = TileGrid((height, width), tile_size, overlap, (y, x))
    largest = max(grid.chunks[0]) * max(grid.chunks[1]) * bands * itemsize
    if largest > _LARGEST_REGION_BYTES:
        raise ArgumentError(
            f"a region would take {largest / 1e9:.1f} GB, more than {_LARGEST_REGION_BYTES / 1e9:.1f}: the image's "
            f"blocks are that large, or region_size={region_size!r} is; convert it to a COG, or choose fewer bands"
        )
    return grid


def _from_the_top(shape: tuple[int, int, int], itemsize: int) -> Pair:
    """Height and width of a region of a file whose rows are decoded one after the other: all of it, if it fits."""
    bands, height, width = shape
    return max(1, min(height, _WHOLE_BYTES // (bands * itemsize * width))), width


def _auto(grid: TileGrid, pixel_bytes: int, block_edges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Pair:
    """Height and width of a region in pixels: near square, of the wanted area, no less than a block."""
    (height, width), (tile_y, tile_x) = grid.shape_yx, (axis.tile for axis in grid.axes)
    limit = min(_MOST_BYTES, parse_bytes(dask.config.get("array.chunk-size")))
    share = height * width * pixel_bytes // (_REGIONS_PER_THREAD * threads())
    area = max(1, min(limit, share) // pixel_bytes)
    side = int(area**0.5)
    block_y, block_x = (int(edges[0]) if len(edges) else n for edges, n in zip(block_edges, grid.shape_yx, strict=True))
    region_x = min(width, max(block_x, side, 2 * tile_x))
    region_y = min(height, max(block_y, area // region_x, 2 * tile_y))
    return region_y, max(region_x, min(width, area // region_y))


def region_chunks(length: int, tile: int, overlap: int, block_edges: NDArray[np.int64], region: int) -> tuple[int, ...]:
    """Cut an axis into regions on block edges, about `region` pixels long.

    Of the block edges in the last half of the wanted length the one that tiles reach over least
    is taken, since what they reach over is read twice.

    Parameters
    ----------
    length, tile, overlap, region : int
        In pixels.
    block_edges : numpy.ndarray
        Inner edges of the blocks along the axis, (n,) int64, rising, in pixels.

    Returns
    -------
    tuple of int
        Lengths of the regions in pixels.
    """
    axis = Axis(length, tile, overlap, (length,))
    cuts = [0]
    while length - cuts[-1] > region:
        low, high, first = np.searchsorted(
            block_edges, [cuts[-1] + max(1, region // 2), cuts[-1] + region + 1, cuts[-1] + 1]
        )
        near = block_edges[low:high]
        if not len(near):  # a block longer than the region: one region a block
            near = block_edges[first : first + 1]
        if not len(near) or near[0] <= cuts[-1]:
            break
        reaches = np.array([axis.reach(int(edge)) for edge in near])
        cuts.append(int(near[np.flatnonzero(reaches == reaches.min())[-1]]))
    return tuple(int(n) for n in np.diff([*cuts, length]))
