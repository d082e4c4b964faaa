"""Pixels that were read, and operations on them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Pixels(NamedTuple):
    """Pixels of a window."""

    values: NDArray[Any]
    """(band, y, x)."""
    valid: NDArray[np.bool_] | None
    """(y, x) bool, the pixels with data; None if all have data, or if validity was not requested."""


class Step(Protocol):
    """Operation that maps each pixel on its own, applied after reading."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return new values, (band, y, x)."""

    def dtype(self, dtype: str) -> str:
        """Return the dtype of the new values."""

    def for_bands(self, indices: tuple[int, ...]) -> Step | None:
        """Return the same step for some of its bands, by index from 0; None if that is not possible."""
