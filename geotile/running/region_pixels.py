"""The pixels of a region and its halo: the seam between windows of a file and strips of a computed array."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import thread_time
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import Checkpoint
from geotile.checkpoints.region_answer import RegionAnswer
from geotile.core.cancellation import cancel_reason
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import Tile, TileGrid, Window
from geotile.imagery.block_cache import read_shared
from geotile.imagery.masks import has_data
from geotile.imagery.open import source_of
from geotile.imagery.overlap import with_halo
from geotile.imagery.source import Pixels, Source

_NOWHERE = Window(0, 0, 0, 0)


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
    read_s: float = 0.0
    """Seconds of CPU that reading took this thread."""
    kept: RegionAnswer | None = None
    """What a checkpoint holds of it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which tiles to read, and whether to look for data in them."""

    grid: TileGrid
    selected: NDArray[np.bool_] | None = None
    """(tiles down, tiles across); None for all."""
    look_for_data: bool = False
    run: str = ""
    """Names the run: what its regions share is read once."""
    checkpoint: Checkpoint | None = None

    def kept(self, row: int, column: int) -> RegionAnswer | None:
        """Return what the checkpoint holds of a region."""
        return None if self.checkpoint is None else self.checkpoint.load(row, column)

    def tiles(self, row: int, column: int, kept: RegionAnswer | None = None) -> list[Tile]:
        """Return a region's tiles that are to be read, but for those whose answer is kept."""
        tiles = self.grid.region_tiles(row, column)
        if self.selected is not None:
            tiles = [tile for tile in tiles if self.selected.flat[tile.number]]
        if kept is None:
            return tiles
        failed = {each.tile for each in kept.failures} if self.checkpoint and self.checkpoint.retry_failed else set()
        return [tile for tile in tiles if tile.number in failed]

    def regions(self) -> NDArray[np.bool_]:
        """Tell which regions have a tile to be read, (regions down, regions across)."""
        if self.selected is None:
            return np.ones(self.grid.regions_yx, bool)
        y, x = (axis.first_tile[:-1] for axis in self.grid.axes)
        return np.logical_or.reduceat(np.logical_or.reduceat(self.selected, y, axis=0), x, axis=1)


def overlapped(image: xr.DataArray, reading: Reading) -> da.Array:
    """Return the regions with their halo, each chunk a `RegionPixels`.

    A plain file is read window by window; the chunks of anything computed hand strips over. Both give
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
    once = delayed(reading, name=f"reading-{reading.run}", traverse=False)  # a key: tasks stay small
    if source is not None:
        return da.map_blocks(_read_region, source=source, reading=once, **known)
    data = image.data if isinstance(image.data, da.Array) else da.from_array(image.data, (-1, *grid.chunks))
    pixels = with_halo(data.rechunk((-1, *grid.chunks)), grid, reading.run)
    return pixels.map_blocks(_as_region, reading=once, nodata=image.rio.nodata, **known)


def _read_region(source: Source, reading: Reading, block_id: tuple[int, int, int]) -> RegionPixels:
    _, row, column = block_id
    kept = reading.kept(row, column)
    tiles = reading.tiles(row, column, kept)
    if reason := cancel_reason(reading.run):  # the model is gone for good: reading on would be for nothing
        unreadable = {tile.number: reason for tile in tiles}
        return RegionPixels(_no_pixels(source), _NOWHERE, unreadable=unreadable, kept=kept)
    blank = _blank(source, tiles) if reading.look_for_data else frozenset()
    tiles = [tile for tile in tiles if tile.number not in blank]
    if not tiles:
        return RegionPixels(_no_pixels(source), _NOWHERE, blank=blank, kept=kept)
    window = _around(tiles)
    if reading.selected is None and not blank and kept is None:
        window = reading.grid.read_window(row, column)
    began = thread_time()
    try:
        pixels = read_shared(source, reading.grid, window, reading.look_for_data, reading.run)
        return RegionPixels(pixels.values, window, pixels.valid, blank=blank, read_s=thread_time() - began, kept=kept)
    except ImageReadError:
        return replace(_read_by_tiles(source, window, tiles, blank, reading.look_for_data), kept=kept)


def _no_pixels(source: Source) -> NDArray[Any]:
    return np.empty((source.shape[0], 0, 0), source.dtype)


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


def _as_region(pixels: NDArray[Any], reading: Reading, nodata: Any, block_id: tuple[int, int, int]) -> RegionPixels:
    _, row, column = block_id
    window = reading.grid.read_window(row, column)
    valid = has_data(pixels, None if nodata is None else float(nodata)) if reading.look_for_data else None
    return RegionPixels(pixels, window, valid, kept=reading.kept(row, column))
