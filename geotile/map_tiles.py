"""One task a region: its pixels, its tiles through the model, what it settles.

Threads: a process has one pool of tile threads for each number of tiles under way; the region
tasks that Dask runs in that process share it. A region task cuts tiles (views, no copies), the
pool's threads encode, send and decode them, the task waits for its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.checks import Pair
from geotile.detections import Detections, concat
from geotile.encode import Encoder
from geotile.endpoints.base import Endpoint
from geotile.errors import EndpointError, GeotileError, ImageReadError, ResponseError, TileError
from geotile.grid import Tile, TileGrid
from geotile.merge import Merge
from geotile.progress import tile_reporter
from geotile.reading import Reading, RegionPixels, overlapped
from geotile.report import TileFailure, tile_failure

_stopped: deque[str] = deque(maxlen=100)  # runs of this process that ended early


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
    without_data: int
    """Tiles that were not sent, since they hold too little data."""


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """All that a region task needs besides pixels. Pickles."""

    reading: Reading
    endpoint: Endpoint
    encoder: Encoder
    merge: Merge
    score_threshold: float
    workers: int
    """Tiles under way at once in a process."""
    errors: Literal["record", "raise"]
    pad_value: float | None
    """What fills a tile shorter than the tile size; None leaves it short."""
    least_data: float | None = None
    """Least share of valid pixels of a tile that is sent; 0 for any at all, None sends every tile."""

    @property
    def grid(self) -> TileGrid:
        """Tiles and regions."""
        return self.reading.grid

    @property
    def run(self) -> str:
        """Names the run, for progress."""
        return self.reading.run


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
    nodes = overlapped(image, job.reading).map_blocks(
        _run_region,
        job=job,
        chunks=((1,), (1,) * down, (1,) * across),
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"detect-region-{job.run}",
    )
    return _only(nodes, job.reading)


def _only(nodes: da.Array, reading: Reading) -> da.Array:
    """Put empty nodes in the place of regions without tiles: nothing they need is computed."""
    wanted = reading.regions()
    if wanted.all():
        return nodes
    name = f"selected-region-{reading.run}"
    layer = {
        (name, 0, row, column): (nodes.name, 0, row, column) if wanted[row, column] else _empty_node(row, column)
        for row, column in np.ndindex(wanted.shape)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[nodes])
    return da.Array(graph, name, nodes.chunks, dtype=object, meta=np.empty((0, 0, 0), object))


def _run_region(region: RegionPixels, job: TileJob, block_id: tuple[int, int, int]) -> Node:
    _, row, column = block_id
    pool = _pool(job.workers)
    tiles = job.reading.tiles(row, column)
    done = tile_reporter(job.run)
    futures = [pool.submit(_run_tile, region, tile, job, done) for tile in tiles]
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
        without_data=sum(result.without_data for result in results),
    )  # fmt: skip


def _empty_node(row: int, column: int) -> Node:
    """Return the node of a region without tiles."""
    return Node(
        rows=(row, row + 1), columns=(column, column + 1), settled=(), open=concat([]),
        failures=(), requests=0, retries=0, before=0, without_data=0,
    )  # fmt: skip


@dataclass(frozen=True)
class _TileResult:
    found: Detections
    attempts: int = 0
    failure: TileFailure | None = None
    without_data: bool = False


def _run_tile(region: RegionPixels, tile: Tile, job: TileJob, done: Callable[[], None]) -> _TileResult:
    if job.run in _stopped:
        raise TileError("the run was stopped before this tile")
    try:
        return _ask(region, tile, job)
    except GeotileError as error:
        if job.errors == "raise":
            y0, y1, x0, x1 = tile.window
            raise TileError(f"tile {tile.number} (rows {y0}:{y1}, columns {x0}:{x1}) failed: {error}") from None
        attempts = error.attempts if isinstance(error, EndpointError) else 0
        return _TileResult(concat([]), attempts, tile_failure(tile, str(error)))
    finally:
        done()


def _ask(region: RegionPixels, tile: Tile, job: TileJob) -> _TileResult:
    if tile.number in region.unreadable:
        raise ImageReadError(region.unreadable[tile.number])
    if not _has_data(region, tile, job.least_data):
        return _TileResult(concat([]), without_data=True)
    pixels = _padded(region.pixels[:, *tile.window.within(region.window).slices], job)
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


def _has_data(region: RegionPixels, tile: Tile, least: float | None) -> bool:
    if least is None:
        return True
    if tile.number in region.blank:
        return False
    if region.valid is None:
        return True
    valid = region.valid[tile.window.within(region.window).slices]
    return bool(valid.any() and valid.mean() >= least)


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
