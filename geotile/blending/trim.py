"""Trimmed tiles: each pixel is that of the tile in which it lies farthest from a seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Answer, Blended, Canvas, shared
from geotile.blending.output_grid import OutputGrid
from geotile.grid.tile_grid import Window

_NOBODY = -1


class TrimCanvas(Canvas):
    """What tiles say, kept until it is known which of them have answered.

    A tile is better than another one for a pixel if the pixel lies farther from its nearest seam, then if it lies
    farther from its other seam, then if its number is lower. A pixel lies in the core of its best tile of all; most
    pixels are settled by that. What lies around the cores is looked at only if a pixel is open at the end.
    """

    def __init__(self, window: Window, planes: int, dtype: np.dtype[Any], grid: OutputGrid) -> None:
        self.window, self.planes, self.dtype, self.grid = window, planes, dtype, grid
        self.answers: list[Answer] = []

    def add(self, answers: Sequence[Answer]) -> None:
        """Add tiles."""
        inside = [(answer, shared(answer.window, self.window)) for answer in answers]
        self.answers += [_part(answer, both) for answer, both in inside if both is not None]

    def cropped(self, window: Window) -> TrimCanvas:
        """Return a copy of a part."""
        part = TrimCanvas(window, self.planes, self.dtype, self.grid)
        part.add(self.answers)
        part.answers = [
            each._replace(planes=each.planes.copy(), valid=None if each.valid is None else each.valid.copy())
            for each in part.answers
        ]
        return part

    def include(self, other: TrimCanvas) -> None:
        """Add another canvas, of which the pixels within this one count."""
        self.add(other.answers)

    def blended(self) -> Blended:
        """Return the values."""
        values = np.zeros((self.planes, *self.window.shape_yx), self.dtype)
        cores = [(answer, core) for answer in self.answers if (core := self._core(answer)) is not None]
        for answer, core in cores:
            here, there = core.within(self.window).slices, core.within(answer.window).slices
            known = np.True_ if answer.valid is None else answer.valid[there]
            np.copyto(values[:, *here], answer.planes[:, *there], where=known, casting="unsafe")
        if sum(prod(core.shape_yx) for answer, core in cores if answer.valid is None) == prod(self.window.shape_yx):
            return Blended(values, None, None)
        settled = np.zeros(self.window.shape_yx, bool)
        for answer, core in cores:
            there = core.within(answer.window).slices
            settled[core.within(self.window).slices] = True if answer.valid is None else answer.valid[there]
        return Blended(values, None, self._fill(values, settled))

    def _core(self, answer: Answer) -> Window | None:
        """Return the pixels for which a tile is the best of all."""
        return shared(self.grid.core(answer.number), answer.window)

    def _fill(self, values: NDArray[Any], settled: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Give open pixels the value of the best tile that has answered; return the pixels that have one."""
        owners = np.full(self.window.shape_yx, _NOBODY, np.int32)
        for spare in self._spares():
            here = spare.window.within(self.window).slices
            candidates = ~settled[here]
            if spare.valid is not None:
                candidates &= spare.valid
            rows, columns = np.nonzero(candidates)
            y, x = rows + spare.window.y0, columns + spare.window.x0
            better = self._is_better(spare.number, owners[here][rows, columns], y, x)
            rows, columns = rows[better], columns[better]
            owners[here][rows, columns] = spare.number
            values[:, *here][:, rows, columns] = spare.planes[:, rows, columns]
        return np.asarray(settled | (owners != _NOBODY))

    def _spares(self) -> Iterator[Answer]:
        """Yield what tiles say of the pixels around their cores."""
        for answer in self.answers:
            for side in _frame(answer.window, self._core(answer)):
                yield _part(answer, side)

    def _is_better(self, one: int, other: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the pixels for which a tile is better than another one, or the only one, (n,) bool."""
        first, second = self._key(np.asarray(one), y, x), self._key(np.maximum(other, 0), y, x)
        return np.asarray((other == _NOBODY) | (first > second) | ((first == second) & (one < other)))

    def _key(self, numbers: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.int64]:
        rows, columns = np.divmod(np.asarray(numbers, np.int64), self.grid.grid.tiles_yx[1])
        dy, dx = self.grid.distances(0, rows, y), self.grid.distances(1, columns, x)
        return np.asarray(np.minimum(dy, dx) * 2**31 + np.maximum(dy, dx))


def _part(answer: Answer, window: Window) -> Answer:
    """Return what a tile says of a part of its pixels."""
    slices = window.within(answer.window).slices
    return Answer(
        answer.number, window, answer.planes[:, *slices], None if answer.valid is None else answer.valid[slices]
    )


def _frame(outer: Window, inner: Window | None) -> list[Window]:
    """Return the rectangles of a window around another one."""
    if inner is None:
        return [outer]
    sides = [
        Window(outer.y0, inner.y0, outer.x0, outer.x1), Window(inner.y1, outer.y1, outer.x0, outer.x1),
        Window(inner.y0, inner.y1, outer.x0, inner.x0), Window(inner.y0, inner.y1, inner.x1, outer.x1),
    ]  # fmt: skip
    return [side for side in sides if side.y0 < side.y1 and side.x0 < side.x1]
