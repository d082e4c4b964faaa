"""The blocks of a file on a window of an image, and a window that is assembled from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.grid.tile_grid import Window
from geotile.imagery.pixels import Pixels
from geotile.imagery.source import Source


class Blocks:
    """The blocks of the file that a window of an image intersects, numbered as in the file."""

    def __init__(self, source: Source, window: Window) -> None:
        self.source = source
        (height, width), whole = source.block_yx, source.to_whole_image(window)
        self.rows = whole.y0 // height, -(-whole.y1 // height)
        self.columns = whole.x0 // width, -(-whole.x1 // width)

    def contain(self, block: Pair) -> bool:
        """Return whether a block, given by row and column, is one of them."""
        return self.rows[0] <= block[0] < self.rows[1] and self.columns[0] <= block[1] < self.columns[1]

    def area(self, rows: Pair, columns: Pair) -> Window:
        """Return the pixels of the image in a rectangle of blocks, given by first and one past the last block."""
        (h, w), (_, height, width), (y, x) = self.source.block_yx, self.source.shape, self.source.origin_yx
        return Window(
            max(rows[0] * h - y, 0), min(rows[1] * h - y, height),
            max(columns[0] * w - x, 0), min(columns[1] * w - x, width),
        )  # fmt: skip

    def area_of(self, block: Pair) -> Window:
        """Return the pixels of the image in one block, given by row and column."""
        return self.area((block[0], block[0] + 1), (block[1], block[1] + 1))


class Canvas:
    """A window that is assembled from parts."""

    def __init__(self, source: Source, window: Window) -> None:
        self.source, self.window = source, window
        self.values: NDArray[Any] | None = None
        self.valid: NDArray[np.bool_] | None = None

    def room(self, area: Window) -> NDArray[Any] | None:
        """Return the part of the values to read an area of the file into; None if it must be read elsewhere."""
        own = self.window
        if area == own or area.intersection(own) != area or self.source.steps or self.source.resampled:
            return None
        if self.values is None:
            self.values = np.empty((self.source.shape[0], *own.shape_yx), self.source.dtype)
        return self.values[:, *area.within(own).slices]

    def paste(self, part: Pixels, area: Window) -> None:
        """Copy the pixels of a part that lie in the window, if they were not read into it."""
        if area == self.window:
            self.values, self.valid = part
            return
        if self.values is None:
            self.values = np.empty((self.source.shape[0], *self.window.shape_yx), part.values.dtype)
        own = self.window
        shared = area.intersection(own)
        if not np.may_share_memory(self.values, part.values):
            self.values[:, *shared.within(own).slices] = part.values[:, *shared.within(area).slices]
        if part.valid is not None:
            if self.valid is None:
                self.valid = np.ones(own.shape_yx, bool)
            self.valid[shared.within(own).slices] = part.valid[shared.within(area).slices]

    def pixels(self, window: Window) -> Pixels:
        """Return the pixels of a part of the window."""
        assert self.values is not None  # a window contains at least one block
        inner = window.within(self.window).slices
        return Pixels(self.values[:, *inner], None if self.valid is None else self.valid[inner])
