"""Trimmed tiles: each pixel is that of the tile in which it lies farthest from a seam."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Blended, Canvas, shared
from geotile.blending.output_grid import OutputGrid
from geotile.grid.tile_grid import Window

_NOBODY = -1
_FINAL = 2**30  # added to the number of a tile that shows a pixel better than any other of the grid


class TrimCanvas(Canvas):
    """Values with the numbers of the tiles that they are from.

    A tile is better than another one for a pixel if the pixel lies farther from its nearest seam, then if it lies
    farther from its other seam, then if its number is lower. If the best tile of all has failed, the next best that
    has not gives the pixel.
    """

    def __init__(self, window: Window, planes: int, dtype: np.dtype[Any], grid: OutputGrid) -> None:
        self.window, self.grid = window, grid
        self.values = np.zeros((planes, *window.shape_yx), dtype)
        self.owners = np.full(window.shape_yx, _NOBODY, np.int32)

    def add(self, number: int, window: Window, planes: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """Add a tile: its core at once, and around it what is better than what is there."""
        inside = shared(window, self.window)
        if inside is None:
            return
        core = shared(self.grid.core(number), inside)
        if core is not None:
            self._put(core, number + _FINAL, window, planes, valid)
        for side in _frame(inside, core):
            self._put_better(side, number, window, planes, valid)

    def _put(
        self, part: Window, owner: int, window: Window, planes: NDArray[Any], valid: NDArray[np.bool_] | None
    ) -> None:
        here, there = part.within(self.window).slices, part.within(window).slices
        if valid is None:
            self.owners[here], self.values[:, *here] = owner, planes[:, *there]
        else:
            self.owners[here][valid[there]] = owner
            self.values[:, *here][:, valid[there]] = planes[:, *there][:, valid[there]]

    def _put_better(
        self, part: Window, number: int, window: Window, planes: NDArray[Any], valid: NDArray[np.bool_] | None
    ) -> None:
        here, there = part.within(self.window).slices, part.within(window).slices
        open_here = self.owners[here] < _FINAL
        if valid is not None:
            open_here &= valid[there]
        if not open_here.any():
            return
        rows, columns = np.nonzero(open_here)
        better = self._is_better(number, self.owners[here][rows, columns], rows + part.y0, columns + part.x0)
        rows, columns = rows[better], columns[better]
        self.owners[here][rows, columns] = number
        self.values[:, *here][:, rows, columns] = planes[:, *there][:, rows, columns]

    def _is_better(self, one: Any, other: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
        """Return at which pixels a tile, or one of several, is better than another one that is not final."""
        nobody = np.asarray(other == _NOBODY)
        if nobody.all():
            return nobody
        first, second = self._key(np.asarray(one), y, x), self._key(np.maximum(other, 0), y, x)
        return np.asarray(nobody | (first > second) | ((first == second) & (one < other)))

    def _key(self, numbers: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.int64]:
        rows, columns = np.divmod(np.asarray(numbers, np.int64), self.grid.grid.tiles_yx[1])
        dy, dx = self.grid.distances(0, rows, y), self.grid.distances(1, columns, x)
        return np.asarray(np.minimum(dy, dx) * 2**31 + np.maximum(dy, dx))

    def cropped(self, window: Window) -> TrimCanvas:
        """Return a copy of a part."""
        part = TrimCanvas(Window(window.y0, window.y0, window.x0, window.x0), 0, self.values.dtype, self.grid)
        slices = window.within(self.window).slices
        part.window = window
        part.values, part.owners = self.values[:, *slices].copy(), self.owners[slices].copy()
        return part

    def include(self, other: TrimCanvas) -> None:
        """Add another canvas, of which the pixels within this one count."""
        inside = shared(self.window, other.window)
        if inside is None:
            return
        here, there = inside.within(self.window).slices, inside.within(other.window).slices
        owners, theirs = self.owners[here], other.owners[there]
        values, others = self.values[:, *here], other.values[:, *there]
        final = theirs >= _FINAL
        np.copyto(owners, theirs, where=final)
        np.copyto(values, others, where=final)
        rows, columns = np.nonzero((theirs != _NOBODY) & (owners < _FINAL))
        better = self._is_better(theirs[rows, columns], owners[rows, columns], rows + inside.y0, columns + inside.x0)
        rows, columns = rows[better], columns[better]
        owners[rows, columns] = theirs[rows, columns]
        values[:, rows, columns] = others[:, rows, columns]

    def blended(self) -> Blended:
        """Return the values."""
        return Blended(self.values, None, self.owners != _NOBODY)


def _frame(outer: Window, inner: Window | None) -> list[Window]:
    """Return the rectangles of a window around another one."""
    if inner is None:
        return [outer]
    sides = [
        Window(outer.y0, inner.y0, outer.x0, outer.x1), Window(inner.y1, outer.y1, outer.x0, outer.x1),
        Window(inner.y0, inner.y1, outer.x0, inner.x0), Window(inner.y0, inner.y1, inner.x1, outer.x1),
    ]  # fmt: skip
    return [side for side in sides if side.y0 < side.y1 and side.x0 < side.x1]
