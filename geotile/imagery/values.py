"""What stored values mean: numbers of colours in a palette, or values that the header scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ArgumentError
from geotile.imagery.source import Source

_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Palette:
    """Expansion of numbers of colours to red, green and blue."""

    colours: bytes
    """Red, green and blue of each number from 0, one byte each; numbers beyond are black."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return uint8 colours, (3, y, x), of numbers, (1, y, x)."""
        known = np.frombuffer(self.colours, np.uint8).reshape(-1, 3)
        table = np.zeros((max(len(known), int(values.max(initial=0)) + 1), 3), np.uint8)
        table[: len(known)] = known
        return np.ascontiguousarray(np.moveaxis(table[values[0]], -1, 0))

    def dtype(self, dtype: str) -> str:
        """Return "uint8"."""
        return "uint8"

    def for_bands(self, indices: tuple[int, ...]) -> None:
        """Return None: every colour needs the one band of the file."""


@dataclass(frozen=True)
class Scaled:
    """Physical values of stored ones: value · scale + offset, and NaN for nodata."""

    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodata: float | None

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values as floats, (band, y, x)."""
        dtype = self.dtype(values.dtype.name)
        scale, offset = (np.asarray(each, np.float64)[:, None, None] for each in (self.scales, self.offsets))
        scaled = (values * scale + offset).astype(dtype)
        if self.nodata is not None and not np.isnan(self.nodata):
            scaled[values == self.nodata] = np.nan
        return scaled

    def dtype(self, dtype: str) -> str:
        """Return "float32" for stored values of up to 16 bits and for float32, else "float64"."""
        return "float32" if np.dtype(dtype).itemsize <= 2 or dtype == "float32" else "float64"

    def for_bands(self, indices: tuple[int, ...]) -> Scaled:
        """Return the same step for a selection of its bands."""
        scales, offsets = (tuple(each[index] for index in indices) for each in (self.scales, self.offsets))
        return replace(self, scales=scales, offsets=offsets)


def expanded(
    source: Source, names: tuple[str, ...], colormap: Mapping[int, tuple[int, ...]] | None
) -> tuple[Source, tuple[str, ...]]:
    """Return a source whose palette is expanded to colours, and the names of its bands."""
    if colormap is None:
        return source, names
    colours = np.zeros((max(colormap) + 1, 3), np.uint8)
    colours[list(colormap)] = np.array(list(colormap.values()))[:, :3]
    shape = (len(_COLOURS), *source.shape[1:])
    return replace(source, shape=shape).with_step(Palette(colours.tobytes())), _COLOURS


def scaled(source: Source, scales: tuple[float, ...], offsets: tuple[float, ...]) -> Source:
    """Return a source of physical values, where the header scales the stored ones.

    Raises
    ------
    ArgumentError
        If steps have changed what the stored values are.
    """
    if source.steps:
        raise ArgumentError("scaled=True applies to stored values; leave out sar, or give palette='index'")
    if set(scales) == {1.0} and set(offsets) == {0.0}:
        return source
    return source.with_step(Scaled(scales, offsets, source.nodata))
