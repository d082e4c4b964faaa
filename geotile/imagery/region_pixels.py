"""The pixels of a region and its halo, read by the region's own task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, thread_time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geotile.core.cancellation import cancel_reason
from geotile.core.memory import Measured
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import Tile, TileGrid, Window
from geotile.imagery.block_cache import read_shared
from geotile.imagery.damaged import is_damaged, read_damaged
from geotile.imagery.masks import has_data
from geotile.imagery.pixels import Pixels
from geotile.imagery.silent_host import given_up, note_read, note_silence
from geotile.imagery.source import Source

_NOWHERE = Window(0, 0, 0, 0)


@dataclass(frozen=True)
class RegionPixels:
    """Pixels of a region."""

    values: NDArray[Any]
    """(band, y, x): the region with the halo that its tiles need, or only the part that the requested tiles cover."""
    window: Window
    """Window of the values in the image."""
    valid: NDArray[np.bool_] | None = None
    """(y, x) bool, the pixels with data; None if all pixels have data, or if validity was not requested."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Reasons why tiles could not be read, by tile number."""
    blank: frozenset[int] = frozenset()
    """Numbers of the tiles that lie completely on blocks that are missing in the file."""
    read_s: float = 0.0
    """CPU time of this thread for reading, in seconds."""


class Region(Protocol):
    """A region of an image, and how its pixels are read."""

    def read(self, tiles: Sequence[Tile], need_valid: bool) -> RegionPixels:
        """Return the pixels of some of the region's tiles.

        Parameters
        ----------
        tiles : sequence of Tile
            Tiles of the region.
        need_valid : bool
            Whether the validity of the pixels is needed.
        """


@dataclass(frozen=True)
class NoPixels:
    """A region whose pixels are not needed."""

    def read(self, tiles: Sequence[Tile], need_valid: bool) -> RegionPixels:
        """Return no pixels."""
        assert not tiles
        return RegionPixels(np.empty((0, 0, 0)), _NOWHERE)


@dataclass(frozen=True)
class ArrayRegion(Measured):
    """A region of a computed array, its halo included."""

    values: NDArray[Any]
    """(band, y, x)."""
    window: Window
    nodata: float | None

    def read(self, tiles: Sequence[Tile], need_valid: bool) -> RegionPixels:
        """Return all pixels of the region, which are computed already."""
        valid = has_data(self.values, self.nodata) if need_valid else None
        return RegionPixels(self.values, self.window, valid)


@dataclass(frozen=True)
class FileRegion:
    """A region of a file, whose pixels are read when `read` is called."""

    source: Source
    grid: TileGrid
    run: str
    """Name of the run. Blocks that its regions share are read once."""
    row: int
    column: int
    in_groups: bool = False
    """Whether the tiles that reach beyond the region are read apart from the others."""

    def read(self, tiles: Sequence[Tile], need_valid: bool) -> RegionPixels:
        """Return the pixels of some tiles, and the reasons why tiles cannot be read."""
        source = self.source
        if reason := cancel_reason(self.run):  # no model will see the pixels
            return RegionPixels(_no_pixels(source), _NOWHERE, unreadable={tile.number: reason for tile in tiles})
        blank = _blank_tiles(source, tiles) if need_valid else frozenset()
        wanted = [tile for tile in tiles if tile.number not in blank]
        if not wanted:
            return RegionPixels(_no_pixels(source), _NOWHERE, blank=blank)
        whole = not self.in_groups and len(wanted) == len(self.grid.region_tiles(self.row, self.column))
        window = self.grid.read_window(self.row, self.column) if whole else _bounds(wanted)
        started = thread_time()
        pixels, unreadable = self._pixels(window, wanted, need_valid)
        read_s = thread_time() - started
        return RegionPixels(pixels.values, window, pixels.valid, unreadable, blank, read_s)

    def _pixels(self, window: Window, tiles: Sequence[Tile], need_valid: bool) -> tuple[Pixels, dict[int, str]]:
        """Return the pixels of a window, and the reasons why tiles cannot be read."""
        source, started = self.source, monotonic()
        if not is_damaged(source, window, self.run) and given_up(self.run, source.location.total_s) is None:
            try:
                pixels = read_shared(source, self.grid, window, need_valid, self.run, self.in_groups)
                note_read(self.run)
                return pixels, {}
            except ImageReadError as error:
                if error.retryable:
                    note_silence(self.run, started)
        return read_damaged(source, window, tiles, need_valid, self.run)


def _no_pixels(source: Source) -> NDArray[Any]:
    return np.empty((source.shape[0], 0, 0), source.dtype)


def _blank_tiles(source: Source, tiles: Sequence[Tile]) -> frozenset[int]:
    """Return the numbers of the tiles that lie completely on blocks that are missing in the file."""
    if not tiles:
        return frozenset()
    bounds, (height, width) = _bounds(tiles), source.block_yx
    empty = source.empty_blocks(bounds)
    if empty is None or not empty.any():
        return frozenset()
    first = source.to_whole_image(bounds)
    top, left = first.y0 // height, first.x0 // width

    def is_blank(window: Window) -> bool:
        y0, y1, x0, x1 = source.to_whole_image(window)
        rows = slice(y0 // height - top, -(-y1 // height) - top)
        columns = slice(x0 // width - left, -(-x1 // width) - left)
        return bool(empty[rows, columns].all())

    return frozenset(number for number, window in tiles if is_blank(window))


def _bounds(tiles: Sequence[Tile]) -> Window:
    """Return the smallest window that contains all given tiles."""
    y0, y1, x0, x1 = np.array([tile.window for tile in tiles]).T
    return Window(int(y0.min()), int(y1.max()), int(x0.min()), int(x1.max()))
