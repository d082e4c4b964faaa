"""The size of regions: chosen by bytes, by the file's blocks and by the number of threads."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
from dask.utils import parse_bytes
from numpy.typing import NDArray

from geotile.core.checks import Pair, as_pair
from geotile.core.dask_info import memory_per_thread, threads
from geotile.errors import ArgumentError
from geotile.grid.axis import Axis
from geotile.grid.tile_grid import TileGrid

MERGED_YX = 3, 10
"""Rows and columns of neighbouring results that the merging tree joins at once: 1.05 tasks a region. With more
rows, more results and blocks would wait in memory, since regions are computed row by row."""
_MIN_REGIONS_PER_THREAD = 2  # so that one slow region does not leave the other threads idle
_AUTO_REGION_BYTES = 32 * 2**20  # larger regions were no faster, and a worker holds one for each thread
_THREADS = 16  # with more, regions grow: Dask's scheduler takes about 1 ms for each, wherever they are computed
_LARGEST = 8  # times as large, at most
_SHARE_OF_MEMORY = 16  # of a worker's memory for each of its threads: the region, its tiles, what is read ahead
_CHUNK_BYTES = 128 * 2**20  # Dask's default of array.chunk-size; less is the user's word
_SEQUENTIAL_REGION_BYTES = 2**30
_MAX_REGIONS = 2**22  # 130 TB in regions of 32 MiB
_MAX_REGION_BYTES = 2**33
_MAX_AUTO_REGION_BYTES = 2**31  # without the user's word: a header of a kilobyte may claim a thousand bands


def plan_grid(
    shape: tuple[int, int, int],
    itemsize: int,
    block_edges: tuple[NDArray[np.int64], NDArray[np.int64]],
    tile_size: int | Pair,
    overlap: int | Pair,
    region_size: Any = "auto",
    sequential: bool = False,
) -> TileGrid:
    """Return a grid of tiles whose regions end on block edges.

    Parameters
    ----------
    shape : tuple of int
        Bands, height and width of the image.
    itemsize : int
        Size of a pixel of one band in bytes.
    block_edges : tuple of numpy.ndarray
        Inner edges of the blocks on y and x, int64, in pixels.
    tile_size, overlap : int or tuple of int
        Side of a tile and minimum overlap of neighbouring tiles in pixels, or (y, x).
    region_size : "auto", int or tuple of int
        Side of a region in pixels, or (y, x). "auto" aims at 32 MiB per region, or at more on a cluster of more than 16
        threads (up to 256 MiB, as far as the workers' memory allows), and at less if Dask's ``array.chunk-size`` is
        less or if a thread would get fewer than two regions.
    sequential : bool
        Whether the file can only be decoded from the top. "auto" then aims at one region of at most 1 GiB.

    Returns
    -------
    TileGrid

    Raises
    ------
    ArgumentError
        If a size is not valid, or if there would be more than 4,194,304 regions or a region of more than 8.6 GB
        (2.1 GB if its size is "auto").
    """
    bands, height, width = shape
    image = TileGrid((height, width), tile_size, overlap)  # checks the sizes
    if isinstance(region_size, str):
        if region_size != "auto":
            raise ArgumentError(f"region_size must be 'auto', pixels, or (y, x) in pixels; got {region_size!r}")
        target = _sequential_size(shape, itemsize) if sequential else _auto_size(image, bands * itemsize, block_edges)
    else:
        target = as_pair(region_size, "region_size", 1)
    _check_number((height, width), target, block_edges)
    y, x = (
        region_chunks(axis.length, axis.tile, axis.overlap, edges, size)
        for axis, edges, size in zip(image.axes, block_edges, target, strict=True)
    )
    grid = TileGrid((height, width), tile_size, overlap, (y, x))
    region_bytes = max(grid.chunks[0]) * max(grid.chunks[1]) * bands * itemsize
    limit = _MAX_AUTO_REGION_BYTES if isinstance(region_size, str) else _MAX_REGION_BYTES
    if region_bytes > limit:
        raise ArgumentError(
            f"a region would take {region_bytes / 1e9:.1f} GB, and the maximum is {limit / 1e9:.1f} GB. Either the "
            f"blocks or the bands of the image or region_size={region_size!r} are too large: choose fewer bands, give "
            f"region_size in pixels (up to {_MAX_REGION_BYTES / 1e9:.1f} GB), or convert the image to a COG"
        )
    return grid


def _check_number(shape_yx: Pair, region_yx: Pair, block_edges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    """Raise ArgumentError if there would be too many regions."""
    counts = [min(n // size, len(edges)) + 1 for n, size, edges in zip(shape_yx, region_yx, block_edges, strict=True)]
    count = int(np.prod(counts))
    if count > _MAX_REGIONS:
        raise ArgumentError(
            f"{shape_yx[1]} x {shape_yx[0]} pixels in regions of {region_yx[1]} x {region_yx[0]} would be {count:,} "
            f"regions, and the maximum is {_MAX_REGIONS:,}. Check the header of the image, or give a larger region_size"
        )


def _sequential_size(shape: tuple[int, int, int], itemsize: int) -> Pair:
    """Return height and width of a region of a file that is decoded from the top: the whole image if it fits."""
    bands, height, width = shape
    return max(1, min(height, _SEQUENTIAL_REGION_BYTES // (bands * itemsize * width))), width


def auto_depends_on() -> tuple[Any, ...]:
    """Return what the size of regions depends on besides the image where it is "auto"."""
    return threads(), memory_per_thread(), dask.config.get("array.chunk-size")


def _auto_size(grid: TileGrid, pixel_bytes: int, block_edges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Pair:
    """Return height and width of a region in pixels: almost square, of the target area, at least one block."""
    (height, width), (tile_y, tile_x) = grid.shape_yx, (axis.tile for axis in grid.axes)
    limit, chunk = auto_bytes(threads(), memory_per_thread()), parse_bytes(dask.config.get("array.chunk-size"))
    limit = limit if chunk >= _CHUNK_BYTES else min(limit, chunk)
    share = height * width * pixel_bytes // (_MIN_REGIONS_PER_THREAD * threads())
    area = max(1, min(limit, share) // pixel_bytes)
    side = int(area**0.5)
    block_y, block_x = (int(edges[0]) if len(edges) else n for edges, n in zip(block_edges, grid.shape_yx, strict=True))
    region_x = min(width, max(block_x, side, 2 * tile_x))
    region_y = min(height, max(block_y, area // region_x, 2 * tile_y))
    return region_y, max(region_x, min(width, area // region_y))


def auto_bytes(n_threads: int, memory: float | None) -> int:
    """Return the size of a region in bytes, by the number of threads and the memory of a worker for each of its own.

    Examples
    --------
    >>> [auto_bytes(n, memory) // 2**20 for n, memory in ((8, None), (64, None), (300, None), (300, 2**31))]
    [32, 128, 256, 128]
    """
    grown = _AUTO_REGION_BYTES * min(n_threads / _THREADS, _LARGEST)
    return max(_AUTO_REGION_BYTES, int(grown if memory is None else min(grown, memory / _SHARE_OF_MEMORY)))


def region_chunks(length: int, tile: int, overlap: int, block_edges: NDArray[np.int64], region: int) -> tuple[int, ...]:
    """Return the lengths of the regions of an axis: about `region` pixels each, ending on block edges.

    A region ends on that block edge, in the second half of the target length, beyond which its tiles extend least:
    the pixels beyond the edge are read twice.

    Parameters
    ----------
    length, tile, overlap, region : int
        Lengths of the axis, of a tile, of the minimum overlap and of the target region in pixels.
    block_edges : numpy.ndarray
        Inner edges of the blocks along the axis in pixels, (n,) int64, ascending.

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
        if not len(near):  # a block is longer than the region: each block becomes a region
            near = block_edges[first : first + 1]
        if not len(near) or near[0] <= cuts[-1]:
            break
        reaches = np.array([axis.reach(int(edge)) for edge in near])
        cuts.append(int(near[np.flatnonzero(reaches == reaches.min())[-1]]))
    return tuple(int(n) for n in np.diff([*cuts, length]))
