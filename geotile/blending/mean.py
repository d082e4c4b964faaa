"""Weighted means with integer weights: sums of integers are exact, so their order does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Answer, Blended, Canvas, shared
from geotile.blending.output_grid import OutputGrid
from geotile.core.checks import Pair
from geotile.grid.tile_grid import Window

WindowName = Literal["mean", "hann"]
LARGEST_WEIGHT = 255


@lru_cache(maxsize=32)
def tile_weights(length_yx: Pair, flanks_y: Pair, flanks_x: Pair) -> NDArray[np.uint8]:
    """Return the integer weights of a tile's pixels, (y, x) uint8, all at least 1.

    Parameters
    ----------
    length_yx : tuple of int
        Height and width of the tile.
    flanks_y, flanks_x : tuple of int
        Pixels that it shares with the tile before it and the one after it along each axis.

    Notes
    -----
    Along each axis the flanks are those of a Hann window: sin²(π/2 · (i + ½) / n) over n shared pixels, and 1 between
    them, so that the weights of two neighbours add up to 1. The product of both axes is scaled to 255 and rounded. A
    weight is never 0, so that each pixel that a tile shows has a value.

    Examples
    --------
    >>> tile_weights((1, 6), (0, 0), (0, 4)).tolist()
    [[255, 255, 245, 176, 79, 10]]
    """
    y, x = (_taper(length, *flanks) for length, flanks in zip(length_yx, (flanks_y, flanks_x), strict=True))
    return np.asarray(np.maximum(1, np.rint(LARGEST_WEIGHT * np.multiply.outer(y, x))), np.uint8)


def _taper(length: int, before: int, after: int) -> NDArray[np.float64]:
    taper = np.ones(length)
    for n, flank in ((before, taper), (after, taper[::-1])):
        flank[:n] *= np.round(np.sin(np.pi / 2 * (np.arange(n) + 0.5) / max(n, 1)) ** 2, 9)
    return taper


class MeanCanvas(Canvas):
    """Sums of weights, and of weights times values.

    Parameters
    ----------
    window : Window
    planes : int
    dtype : numpy.dtype
        Of the sums, which it must hold exactly.
    name : {"mean", "hann"}
        Whether weights are 1, or fall where tiles overlap.
    grid : OutputGrid
    """

    def __init__(self, window: Window, planes: int, dtype: np.dtype[Any], name: WindowName, grid: OutputGrid) -> None:
        self.window, self.name, self.grid = window, name, grid
        self.sums = np.zeros((planes, *window.shape_yx), dtype)
        self.weights = np.zeros(window.shape_yx, np.uint32)

    def add(self, answers: Sequence[Answer]) -> None:
        """Add integer values of tiles."""
        for number, window, planes, valid in answers:
            inside = shared(window, self.window)
            if inside is None:
                continue
            there, here = inside.within(window).slices, inside.within(self.window).slices
            weights: Any = 1
            if self.name == "hann":
                weights = tile_weights(window.shape_yx, *self.grid.flanks(number))[there].astype(self.sums.dtype)
            if valid is not None:
                weights = weights * valid[there]
            self.weights[here] += np.asarray(weights, np.uint32)
            for plane, values in zip(self.sums, planes, strict=True):
                plane[here] += np.asarray(values[there] * weights, self.sums.dtype)

    def cropped(self, window: Window) -> MeanCanvas:
        """Return a copy of a part."""
        part = MeanCanvas(Window(0, 0, 0, 0), 0, self.sums.dtype, self.name, self.grid)
        slices = window.within(self.window).slices
        part.window, part.sums, part.weights = window, self.sums[:, *slices].copy(), self.weights[slices].copy()
        return part

    def include(self, other: MeanCanvas) -> None:
        """Add another canvas, of which the pixels within this one count."""
        inside = shared(self.window, other.window)
        if inside is not None:
            here, there = inside.within(self.window).slices, inside.within(other.window).slices
            self.sums[:, *here] += other.sums[:, *there]
            self.weights[here] += other.weights[there]

    def blended(self) -> Blended:
        """Return the sums."""
        return Blended(self.sums, self.weights, self.weights > 0)
