"""One task a region: its pixels, its tiles through the model, what it settles.

Threads: a process has one pool of tile threads for each number of tiles under way; the region
tasks that Dask runs in that process share it. A region task cuts tiles (views, no copies), the
pool's threads encode, send and decode them, the task waits for its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.checks import Pair
from geotile.detections import Detections, concat
from geotile.encode import Encoder
from geotile.endpoints.base import Endpoint
from geotile.errors import EndpointError, GeotileError, ImageReadError, ResponseError, TileError
from geotile.grid import Tile, TileGrid, Window
from geotile.merge import Merge
from geotile.progress import tile_reporter
from geotile.raster import Source, source_of
from geotile.report import TileFailure, tile_failure

_stopped: deque[str] = deque(maxlen=100)  # runs of this process that ended early


@dataclass(frozen=True)
class RegionPixels:
    """What was read of a region."""

    pixels: NDArray[Any]
    """(band, y, x), the region and as much halo as its own tiles need."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why a tile's pixels could not be read, by its number."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node of the merging tree knows: of one region, or of a rectangle of them."""

    rows: Pair
    columns: Pair
    settled: tuple[Detections, ...]
    open: Detections
    failures: tuple[TileFailure, ...]
    requests: int
    retries: int
    before: int


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """All that a region task needs besides pixels. Pickles."""

    grid: TileGrid
    endpoint: Endpoint
    encoder: Encoder
    merge: Merge
    score_threshold: float
    workers: int
    """Tiles under way at once in a process."""
    errors: Literal["record", "raise"]
    pad_value: float | None
    """What fills a tile shorter than the tile size; None leaves it short."""
    run: str
    """Names the run, for progress."""


def map_tiles(image: xr.DataArray, job: TileJob) -> da.Array:
    """Run the model over every tile, one task a region.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), lazy or in memory.
    job : TileJob

    Returns
    -------
    dask.array.Array
        (1, regions down, regions across) of `Node`, one a chunk.
    """
    down, across = job.grid.regions_yx
    return overlapped(image, job.grid).map_blocks(
        _run_region,
        job=job,
        chunks=((1,), (1,) * down, (1,) * across),
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"detect-region-{job.run}",
    )


def overlapped(image: xr.DataArray, grid: TileGrid) -> da.Array:
    """Return the regions with their halo, each chunk a `RegionPixels`.

    A plain file is read window by window; anything computed goes through `map_overlap`. Both give
    the same pixels: this is the only place that knows the difference (DESIGN 4).
    """
    bands = image.shape[0]
    rows, columns = range(grid.regions_yx[0]), range(grid.regions_yx[1])
    shape = (
        (bands,),
        tuple(grid.read_window(row, 0).shape_yx[0] for row in rows),
        tuple(grid.read_window(0, column).shape_yx[1] for column in columns),
    )
    known: dict[str, Any] = {"dtype": image.dtype, "meta": np.empty((0, 0, 0), image.dtype), "chunks": shape}
    source = source_of(image)
    if source is not None:
        return da.map_blocks(_read_region, source=source, grid=grid, **known)
    data = image.data if isinstance(image.data, da.Array) else da.from_array(image.data, (-1, *grid.chunks))
    deep_y, deep_x = grid.depth_yx
    return da.map_overlap(
        _trim_region,
        data.rechunk((-1, *grid.chunks)),
        depth={0: 0, 1: (0, deep_y), 2: (0, deep_x)},
        boundary="none",
        trim=False,
        allow_rechunk=False,
        grid=grid,
        **known,
    )


def _read_region(source: Source, grid: TileGrid, block_id: tuple[int, int, int]) -> RegionPixels:
    _, row, column = block_id
    window = grid.read_window(row, column)
    try:
        return RegionPixels(source.read(window))
    except ImageReadError:
        return _read_by_tiles(source, window, grid.region_tiles(row, column))


def _read_by_tiles(source: Source, window: Window, tiles: list[Tile]) -> RegionPixels:
    """Read a region with blocks that do not decode: only the tiles on them are lost."""
    pixels = np.zeros((source.shape[0], *window.shape_yx), source.dtype)
    unreadable = {}
    for tile in tiles:
        try:
            pixels[:, *tile.window.within(window).slices] = source.read(tile.window)
        except ImageReadError as error:
            unreadable[tile.number] = str(error)
    return RegionPixels(pixels, unreadable)


def _trim_region(pixels: NDArray[Any], grid: TileGrid, block_id: tuple[int, int, int]) -> RegionPixels:
    """Cut Dask's halo, which is the deepest of all regions, to what this region needs."""
    _, row, column = block_id
    height, width = grid.read_window(row, column).shape_yx
    return RegionPixels(pixels[:, :height, :width])


def _run_region(region: RegionPixels, job: TileJob, block_id: tuple[int, int, int]) -> Node:
    _, row, column = block_id
    window = job.grid.read_window(row, column)
    pool = _pool(job.workers)
    tiles = job.grid.region_tiles(row, column)
    done = tile_reporter(job.run)
    futures = [pool.submit(_run_tile, region, tile, window, job, done) for tile in tiles]
    try:
        results = [future.result() for future in futures]
    except BaseException:
        _stopped.append(job.run)  # what this run still has queued, here and in other regions, is not sent
        raise
    found = concat(result.found for result in results)
    interior = job.grid.interior((row, row + 1), (column, column + 1))
    settled, still_open = job.merge.settle(found, interior)
    return Node(
        rows=(row, row + 1), columns=(column, column + 1),
        settled=(settled,), open=still_open,
        failures=tuple(result.failure for result in results if result.failure),
        requests=sum(result.attempts for result in results),
        retries=sum(max(0, result.attempts - 1) for result in results),
        before=len(found),
    )  # fmt: skip


@dataclass(frozen=True)
class _TileResult:
    found: Detections
    attempts: int = 0
    failure: TileFailure | None = None


def _run_tile(region: RegionPixels, tile: Tile, window: Window, job: TileJob, done: Callable[[], None]) -> _TileResult:
    if job.run in _stopped:
        raise TileError("the run was stopped before this tile")
    try:
        return _ask(region, tile, window, job)
    except GeotileError as error:
        if job.errors == "raise":
            y0, y1, x0, x1 = tile.window
            raise TileError(f"tile {tile.number} (rows {y0}:{y1}, columns {x0}:{x1}) failed: {error}") from None
        attempts = error.attempts if isinstance(error, EndpointError) else 0
        return _TileResult(concat([]), attempts, tile_failure(tile, str(error)))
    finally:
        done()


def _ask(region: RegionPixels, tile: Tile, window: Window, job: TileJob) -> _TileResult:
    if tile.number in region.unreadable:
        raise ImageReadError(region.unreadable[tile.number])
    pixels = _padded(region.pixels[:, *tile.window.within(window).slices], job)
    body = job.encoder.encode(pixels, tile.window) if job.endpoint.wants_bytes else pixels
    answer = job.endpoint.invoke(body, job.encoder.content_type)
    height, width = pixels.shape[1:]
    try:
        _must_touch(answer.found, width, height)
    except ResponseError as error:
        error.attempts = answer.attempts
        raise
    placed = answer.found.placed(tile.number, tile.window.x0, tile.window.y0, width, height)
    return _TileResult(placed.above(job.score_threshold), answer.attempts)


def _padded(pixels: NDArray[Any], job: TileJob) -> NDArray[Any]:
    if job.pad_value is None:
        return pixels
    short = [axis.tile - n for axis, n in zip(job.grid.axes, pixels.shape[1:], strict=True)]
    if not any(short):
        return pixels
    return np.pad(pixels, ((0, 0), (0, short[0]), (0, short[1])), constant_values=job.pad_value)


def _must_touch(found: Detections, width: int, height: int) -> None:
    """Refuse boxes that lie wholly outside their tile: merging relies on what the tile shows."""
    far = (found.boxes[:, 2:] < 0).any(axis=1) | (found.boxes[:, :2] > [width, height]).any(axis=1)
    if far.any():
        box = found.boxes[int(np.flatnonzero(far)[0])].tolist()
        raise ResponseError(f"box {box} lies outside the tile of {width} x {height} pixels that was sent")


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="geotile-tile")
