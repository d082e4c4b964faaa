"""The tile grid in pixels of the output, which can be finer or coarser than the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.grid.tile_grid import TileGrid, Window


@dataclass(frozen=True)
class OutputGrid:
    """Tiles and regions in pixels of the output.

    Parameters
    ----------
    grid : TileGrid
        Tiles and regions in pixels of the image. Its `align` is a multiple of `down`.
    up, down : int
        Pixels of the output per pixel of the image along each axis, and the other way round; one of them is 1.

    Examples
    --------
    >>> fine = OutputGrid(TileGrid((100, 100), 60, 20), up=2)
    >>> fine.shape_yx, fine.tile_window(3)
    ((200, 200), Window(y0=80, y1=200, x0=80, x1=200))
    """

    grid: TileGrid
    up: int = 1
    down: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the fields; the values computed from them are computed once per process."""
        return _output_grid, (self.grid, self.up, self.down)

    def window(self, window: Window) -> Window:
        """Return the pixels of the output that show a window of the image."""
        y0, y1, x0, x1 = window
        return Window(y0 * self.up // self.down, self._stop(y1), x0 * self.up // self.down, self._stop(x1))

    def _stop(self, stop: int) -> int:
        return -(-stop * self.up // self.down)

    @cached_property
    def shape_yx(self) -> Pair:
        """Height and width of the output."""
        height, width = self.grid.shape_yx
        return self._stop(height), self._stop(width)

    @cached_property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Heights and widths of the regions."""
        y, x = (
            tuple(np.diff([self._stop(int(edge)) for edge in axis.edges]).tolist()) for axis in self.grid.axes
        )  # fmt: skip
        return y, x

    def tile_window(self, number: int) -> Window:
        """Return the pixels of a tile."""
        return self.window(self.grid.tile_window(*divmod(number, self.grid.tiles_yx[1])))

    def region_window(self, row: int, column: int) -> Window:
        """Return the pixels of a region without its halo."""
        return self.window(self.grid.region_window(row, column))

    @cached_property
    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First pixel and one past the last pixel of the tiles along y and x, each (n, 2) int64."""
        y, x = (
            np.array([(s * self.up // self.down, self._stop(axis.stop(i))) for i, s in enumerate(axis.starts.tolist())])
            for axis in self.grid.axes
        )
        return y, x

    @cached_property
    def cuts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edges of what each tile shows best along y and x, each (n + 1,) int64.

        Between neighbours lies the middle of what they share. A pixel in the middle belongs to the first of both.
        """
        y, x = (np.concatenate([[0], (spans[:-1, 1] + spans[1:, 0] + 1) // 2, spans[-1:, 1]]) for spans in self.spans)
        return y, x

    def flanks(self, number: int) -> tuple[Pair, Pair]:
        """Return how many pixels a tile shares with the one before it and the one after it along y and along x."""
        y, x = (
            (int(shared[place]), int(shared[place + 1]))
            for shared, place in zip(self._shared, divmod(number, self.grid.tiles_yx[1]), strict=True)
        )
        return y, x

    @cached_property
    def _shared(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels that neighbouring tiles share along y and x, (n + 1,) int64, 0 before the first and after the last."""
        y, x = (np.concatenate([[0], np.maximum(spans[:-1, 1] - spans[1:, 0], 0), [0]]) for spans in self.spans)
        return y, x

    def core(self, number: int) -> Window:
        """Return the pixels that a tile shows best: those that lie farther from its seams than from any other's."""
        row, column = divmod(number, self.grid.tiles_yx[1])
        y, x = self.cuts
        return Window(int(y[row]), int(y[row + 1]), int(x[column]), int(x[column + 1]))

    def distances(self, axis: int, tiles: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how far pixels lie from the seams of tiles along an axis, in half pixels.

        Borders of the image are not seams.

        Parameters
        ----------
        axis : int
            0 for y, 1 for x.
        tiles, pixels : numpy.ndarray
            int64, numbers of tiles along the axis and positions of pixels, of shapes that broadcast.
        """
        spans = self.spans[axis]
        last, far = len(spans) - 1, 2**30
        before = np.where(tiles == 0, far, 2 * (pixels - spans[tiles, 0]) + 1)
        after = np.where(tiles == last, far, 2 * (spans[tiles, 1] - pixels) - 1)
        return np.asarray(np.minimum(before, after))


@lru_cache(maxsize=16)
def _output_grid(grid: TileGrid, up: int, down: int) -> OutputGrid:
    return OutputGrid(grid, up, down)
