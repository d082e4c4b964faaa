"""Weighted means with integer weights: sums of integers are exact, so their order does not matter."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Blended, Canvas, shared
from geotile.grid.tile_grid import Window

WindowName = Literal["mean", "hann"]
_LARGEST_WEIGHT = 255  # along each axis


@lru_cache(maxsize=64)
def axis_weights(name: WindowName, length: int) -> NDArray[np.int64]:
    """Return the integer weights of a tile's pixels along an axis, (length,) int64, all at least 1.

    Notes
    -----
    The Hann window sin²(π (i + ½) / n), scaled to 255 and rounded. A weight is never 0, so that the outermost pixels
    of the image have a value.

    Examples
    --------
    >>> axis_weights("hann", 6).tolist(), axis_weights("mean", 3).tolist()
    ([17, 128, 238, 238, 128, 17], [1, 1, 1])
    """
    if name == "mean":
        return np.ones(length, np.int64)
    hann = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    return np.asarray(np.maximum(1, np.rint(_LARGEST_WEIGHT * np.round(hann, 9))), np.int64)


def largest_weight(name: WindowName) -> int:
    """Return the largest weight of a pixel."""
    return 1 if name == "mean" else _LARGEST_WEIGHT**2


class MeanCanvas(Canvas):
    """Sums of weights, and of weights times values."""

    def __init__(self, window: Window, planes: int, name: WindowName) -> None:
        self.window, self.name = window, name
        self.sums = np.zeros((planes, *window.shape_yx), np.int64)
        self.weights = np.zeros(window.shape_yx, np.int64)

    def add(self, number: int, window: Window, planes: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """Add a tile's integer values."""
        y, x = (axis_weights(self.name, length) for length in planes.shape[1:])
        weights = y[: window.shape_yx[0], None] * x[None, : window.shape_yx[1]]
        if valid is not None:
            weights = weights * valid
        inside = shared(window, self.window)
        if inside is None:
            return
        there, here = inside.within(window).slices, inside.within(self.window).slices
        part = weights[there]
        self.weights[here] += part
        for plane, values in zip(self.sums, planes, strict=True):
            plane[here] += values[there] * part

    def cropped(self, window: Window) -> MeanCanvas:
        """Return a copy of a part."""
        part = MeanCanvas(window, 0, self.name)
        slices = window.within(self.window).slices
        part.sums, part.weights = self.sums[:, *slices].copy(), self.weights[slices].copy()
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
