"""Trimmed tiles: each pixel is that of the tile in which it lies farthest from a seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Answer, Blended, Canvas, shared
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

    def add(self, answers: Sequence[Answer]) -> None:
        """Add tiles: first the core of each, which no other shows better, then what lies around and is open still."""
        for answer in answers:
            core = shared(self.grid.core(answer.number), answer.window)
            if core is not None and (core := shared(core, self.window)) is not None:
                self._put_core(core, answer)
        for answer in answers:
            inside = shared(answer.window, self.window)
            if inside is not None:
                for side in _frame(inside, shared(self.grid.core(answer.number), inside)):
                    self._put_better(side, answer)

    def _put_core(self, part: Window, answer: Answer) -> None:
        here, there = part.within(self.window).slices, part.within(answer.window).slices
        known = True if answer.valid is None else answer.valid[there]
        np.copyto(self.owners[here], answer.number + _FINAL, where=known)
        np.copyto(self.values[:, *here], answer.planes[:, *there], where=known, casting="unsafe")

    def _put_better(self, part: Window, answer: Answer) -> None:
        here, there = part.within(self.window).slices, part.within(answer.window).slices
        owners, better = self.owners[here], self.owners[here] == _NOBODY
        rows, columns = np.nonzero((owners < _FINAL) & ~better)
        if len(rows):
            found = self._is_better(answer.number, owners[rows, columns], rows + part.y0, columns + part.x0)
            better[rows[found], columns[found]] = True
        if answer.valid is not None:
            better &= answer.valid[there]
        np.copyto(owners, answer.number, where=better)
        np.copyto(self.values[:, *here], answer.planes[:, *there], where=better, casting="unsafe")

    def _is_better(self, one: Any, other: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
        """Return at which pixels a tile, or one of several, is better than another one that is not final."""
        first, second = self._key(np.asarray(one), y, x), self._key(other, y, x)
        return np.asarray((first > second) | ((first == second) & (one < other)))

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
        better = (theirs >= _FINAL) | ((owners == _NOBODY) & (theirs != _NOBODY))
        rows, columns = np.nonzero((theirs != _NOBODY) & (owners != _NOBODY) & (owners < _FINAL) & ~better)
        if len(rows):
            found = self._is_better(theirs[rows, columns], owners[rows, columns], rows + inside.y0, columns + inside.x0)
            better[rows[found], columns[found]] = True
        np.copyto(owners, theirs, where=better)
        np.copyto(self.values[:, *here], other.values[:, *there], where=better)

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
