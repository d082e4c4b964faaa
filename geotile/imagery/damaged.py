"""A region with damaged blocks: what can be read is read once, and a block that failed is not tried again in the run.

A tile fails with the first of its blocks that fails. The blocks on a window are read in halves: a part that cannot be
read is divided, down to a single block, and a part that no tile is left to need is not read at all. So a run tries a
block about once for each region that it lies in, however many tiles there are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.registry import Registry
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import Tile, Window
from geotile.imagery.blocks import Blocks, Canvas
from geotile.imagery.open_files import FileKey
from geotile.imagery.pixels import Pixels
from geotile.imagery.silent_host import given_up, note_read, note_silence
from geotile.imagery.source import Source

_MAX_KEPT = 2**16  # failed blocks of a run that a process remembers
_failed = Registry[str, dict[tuple[FileKey, Pair], str]](8)  # by run


def is_damaged(source: Source, window: Window, run: str) -> bool:
    """Return whether a block on a window has failed before in this run."""
    blocks = Blocks(source, window)
    return any(file == source.file_key and blocks.contain(block) for file, block in list(_failed.peek(run) or ()))


def discard_failures(run: str) -> None:
    """Forget the failed blocks of a run."""
    if (failed := _failed.peek(run)) is not None:
        _failed.discard(run, failed)


def read_damaged(
    source: Source, window: Window, tiles: Sequence[Tile], valid: bool, run: str
) -> tuple[Pixels, dict[int, str]]:
    """Read what can be read of a region with damaged blocks.

    Parameters
    ----------
    source : Source
    window : Window
        Window that contains all given tiles, in pixels of the source.
    tiles : sequence of Tile
    valid : bool
        Whether the validity of the pixels is needed.
    run : str
        Name of the run.

    Returns
    -------
    tuple
        The pixels of the window, 0 where nothing was read, and the reasons why tiles cannot be read, by tile number.
    """
    blocks = Blocks(source, window)
    region = _Damaged(source, blocks, window, tiles, valid, run)
    region.read(blocks.rows, blocks.columns)
    return region.canvas.pixels(window), region.unreadable


@dataclass
class _Damaged:
    source: Source
    blocks: Blocks
    window: Window
    tiles: Sequence[Tile]
    valid: bool
    run: str
    canvas: Canvas = field(init=False)
    unreadable: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.source.shape[0], *self.window.shape_yx
        self.canvas = Canvas(self.source, self.window)
        self.canvas.values = np.zeros(shape, self.source.dtype)
        self.canvas.valid = np.ones(shape[1:], bool) if self.valid else None
        self.bounds = np.array([tile.window for tile in self.tiles], np.int64)
        self.living = np.ones(len(self.tiles), bool)
        self.failed = _failed.get(self.run, dict)
        for (file, block), cause in list(self.failed.items()):
            if file == self.source.file_key and self.blocks.contain(block):
                self.fail(self.blocks.area_of(block), cause)

    def read(self, rows: Pair, columns: Pair) -> None:
        """Read a rectangle of blocks, given by first and one past the last one, if a tile needs it; or else halves."""
        area = self.blocks.area(rows, columns).intersection(self.window)
        if not self.on(area).any():
            return
        if reason := given_up(self.run, self.source.location.total_s):
            self.fail(area, reason)
            return
        started = time.monotonic()
        try:
            self.canvas.paste(self.source.read(area, self.valid), area)
            note_read(self.run)
        except ImageReadError as error:
            if error.retryable:
                note_silence(self.run, started)
            down, across = rows[1] - rows[0], columns[1] - columns[0]
            if down == across == 1:
                if len(self.failed) < _MAX_KEPT and not error.retryable:
                    self.failed[self.source.file_key, (rows[0], columns[0])] = error.cause
                self.fail(area, error.cause)
            elif down >= across:
                middle = rows[0] + down // 2
                self.read((rows[0], middle), columns)
                self.read((middle, rows[1]), columns)
            else:
                middle = columns[0] + across // 2
                self.read(rows, (columns[0], middle))
                self.read(rows, (middle, columns[1]))

    def on(self, area: Window) -> NDArray[np.bool_]:
        """Return which tiles have pixels in a window and have not failed, (n,) bool."""
        y0, y1, x0, x1 = self.bounds.T
        touching = (y0 < area.y1) & (y1 > area.y0) & (x0 < area.x1) & (x1 > area.x0)
        return np.asarray(touching & self.living)

    def fail(self, area: Window, cause: str) -> None:
        """Note that the tiles with pixels in a window cannot be read."""
        hit = self.on(area)
        self.living &= ~hit
        for number, window in (self.tiles[int(index)] for index in np.flatnonzero(hit)):
            self.unreadable[number] = str(self.source.unreadable(window, cause))
