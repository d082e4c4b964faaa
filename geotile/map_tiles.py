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
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.checks import Pair
from geotile.detections import Detections, concat
from geotile.encode import Encoder
from geotile.endpoints.base import Endpoint
from geotile.errors import EndpointError, GeotileError, ImageReadError, ResponseError, TileError
from geotile.grid import Tile, TileGrid, Window
from geotile.halo import read_shared
from geotile.merge import Merge
from geotile.progress import tile_reporter
from geotile.raster import source_of
from geotile.report import TileFailure, tile_failure
from geotile.source import Pixels, Source, has_data

_stopped: deque[str] = deque(maxlen=100)  # runs of this process that ended early


@dataclass(frozen=True)
class RegionPixels:
    """What was read of a region."""

    pixels: NDArray[Any]
    """(band, y, x), the region and as much halo as its own tiles need."""
    window: Window
    """Where they lie."""
    valid: NDArray[np.bool_] | None = None
    """(y, x), where there is data; None where all of it is, or nobody asked."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why a tile's pixels could not be read, by its number."""
    blank: frozenset[int] = frozenset()
    """Numbers of the tiles that the file holds no block of."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which tiles to read, and whether to look for data in them."""

    grid: TileGrid
    selected: NDArray[np.bool_] | None = None
    """(tiles down, tiles across); None for all."""
    look_for_data: bool = False
    run: str = ""
    """Names the run: what its regions share is read once."""

    def tiles(self, row: int, column: int) -> list[Tile]:
        """Return a region's tiles that are to be read."""
        tiles = self.grid.region_tiles(row, column)
        return tiles if self.selected is None else [tile for tile in tiles if self.selected.flat[tile.number]]

    def regions(self) -> NDArray[np.bool_]:
        """Tell which regions have a tile to be read, (regions down, regions across)."""
        if self.selected is None:
            return np.ones(self.grid.regions_yx, bool)
        y, x = (axis.first_tile[:-1] for axis in self.grid.axes)
        return np.logical_or.reduceat(np.logical_or.reduceat(self.selected, y, axis=0), x, axis=1)


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


def overlapped(image: xr.DataArray, reading: Reading) -> da.Array:
    """Return the regions with their halo, each chunk a `RegionPixels`.

    A plain file is read window by window; anything computed goes through `map_overlap`. Both give
    the same pixels: this is the only place that knows the difference (DESIGN 4).
    """
    grid, bands = reading.grid, image.shape[0]
    rows, columns = range(grid.regions_yx[0]), range(grid.regions_yx[1])
    shape = (
        (bands,),
        tuple(grid.read_window(row, 0).shape_yx[0] for row in rows),
        tuple(grid.read_window(0, column).shape_yx[1] for column in columns),
    )
    known: dict[str, Any] = {"dtype": image.dtype, "meta": np.empty((0, 0, 0), image.dtype), "chunks": shape}
    source = source_of(image)
    if source is not None:
        return da.map_blocks(_read_region, source=source, reading=reading, **known)
    data = image.data if isinstance(image.data, da.Array) else da.from_array(image.data, (-1, *grid.chunks))
    deep_y, deep_x = grid.depth_yx
    return da.map_overlap(
        _trim_region,
        data.rechunk((-1, *grid.chunks)),
        depth={0: 0, 1: (0, deep_y), 2: (0, deep_x)},
        boundary="none",
        trim=False,
        allow_rechunk=False,
        reading=reading,
        nodata=image.rio.nodata,
        **known,
    )


def _read_region(source: Source, reading: Reading, block_id: tuple[int, int, int]) -> RegionPixels:
    _, row, column = block_id
    tiles = reading.tiles(row, column)
    blank = _blank(source, tiles) if reading.look_for_data else frozenset()
    tiles = [tile for tile in tiles if tile.number not in blank]
    if not tiles:
        nothing = Window(0, 0, 0, 0)
        return RegionPixels(np.empty((source.shape[0], 0, 0), source.dtype), nothing, blank=blank)
    window = _around(tiles)
    if reading.selected is None and not blank:
        window = reading.grid.read_window(row, column)
    try:
        pixels = read_shared(source, reading.grid, window, reading.look_for_data, reading.run)
        return RegionPixels(pixels.values, window, pixels.valid, blank=blank)
    except ImageReadError:
        return _read_by_tiles(source, window, tiles, blank, reading.look_for_data)


def _read_by_tiles(
    source: Source, window: Window, tiles: list[Tile], blank: frozenset[int], look_for_data: bool
) -> RegionPixels:
    """Read a region with blocks that do not decode: only the tiles on them are lost."""
    pixels = np.zeros((source.shape[0], *window.shape_yx), source.dtype)
    valid = np.ones(window.shape_yx, bool) if look_for_data else None
    unreadable = {}
    for tile in tiles:
        try:
            part: Pixels = source.read(tile.window, look_for_data)
        except ImageReadError as error:
            unreadable[tile.number] = str(error)
            continue
        place = tile.window.within(window).slices
        pixels[:, *place] = part.values
        if valid is not None and part.valid is not None:
            valid[place] = part.valid
    return RegionPixels(pixels, window, valid, unreadable, blank)


def _blank(source: Source, tiles: list[Tile]) -> frozenset[int]:
    """Return the tiles that the file holds no block of: they need not be read."""
    if not tiles:
        return frozenset()
    window, (height, width) = _around(tiles), source.block_yx
    empty = source.empty_blocks(window)
    if empty is None or not empty.any():
        return frozenset()
    top, left = window.y0 // height, window.x0 // width
    return frozenset(
        number
        for number, (y0, y1, x0, x1) in tiles
        if empty[y0 // height - top : -(-y1 // height) - top, x0 // width - left : -(-x1 // width) - left].all()
    )


def _around(tiles: list[Tile]) -> Window:
    """Return the window that holds all of some tiles."""
    y0, y1, x0, x1 = np.array([tile.window for tile in tiles]).T
    return Window(int(y0.min()), int(y1.max()), int(x0.min()), int(x1.max()))


def _trim_region(pixels: NDArray[Any], reading: Reading, nodata: Any, block_id: tuple[int, int, int]) -> RegionPixels:
    """Cut Dask's halo, which is the deepest of all regions, to what this region needs."""
    _, row, column = block_id
    window = reading.grid.read_window(row, column)
    cut = pixels[:, : window.shape_yx[0], : window.shape_yx[1]]
    valid = has_data(cut, None if nodata is None else float(nodata)) if reading.look_for_data else None
    return RegionPixels(cut, window, valid)


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
