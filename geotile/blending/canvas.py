"""What tiles say of the pixels of a window, added up so that the order and the grouping of tiles do not matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotile.core.memory import Measured
from geotile.grid.tile_grid import Window


@dataclass(frozen=True)
class Blended:
    """Pixels of a window after blending: numerators and denominators of means, or the values of one tile each."""

    values: NDArray[Any]
    """(plane, y, x): sums of weight times value, or values."""
    weights: NDArray[Any] | None
    """(y, x), integers, sums of the weights; None if the values are those of one tile."""
    seen: NDArray[np.bool_] | None
    """(y, x) bool, the pixels that a tile has answered; None for all."""


class Answer(NamedTuple):
    """What a tile says."""

    number: int
    """Number of the tile."""
    window: Window
    """Its pixels, in pixels of the output."""
    planes: NDArray[Any]
    """(plane, y, x), the values."""
    valid: NDArray[np.bool_] | None
    """(y, x) bool, the pixels that have a value; None for all."""


class Canvas(Measured, ABC):
    """Values of a window that tiles are added to, and other canvases."""

    window: Window
    """The window, in pixels of the output."""

    @abstractmethod
    def add(self, answers: Sequence[Answer]) -> None:
        """Add what tiles say."""

    @abstractmethod
    def cropped(self, window: Window) -> Canvas:
        """Return a copy of a part."""

    @abstractmethod
    def include(self, other: Any) -> None:
        """Add another canvas, of which the pixels within this one count."""

    @abstractmethod
    def blended(self) -> Blended:
        """Return the result."""


def shared(one: Window, other: Window) -> Window | None:
    """Return the pixels that two windows share, or None."""
    both = one.intersection(other)
    return both if both.y0 < both.y1 and both.x0 < both.x1 else None
