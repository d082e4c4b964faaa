"""Tiles as a network wants them: resized, letterboxed, normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ArgumentError, EndpointError

Fit = Literal["stretch", "corner", "centre", "as it is"]
_GREY = 114


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a family's training did to pictures."""

    fit: Fit
    """How a tile comes to the input's size: stretched; or in its own aspect, the rest grey, in the upper-left
    corner or in the centre; or not at all."""
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    """What values of 0 to 255 are divided by, first."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    """In the order of the channels."""
    bicubic: bool = False


@dataclass(frozen=True)
class Placed:
    """Where a tile lies in the input: input = tile · scale + shift."""

    scale_xy: NDArray[np.float64]
    shift_xy: NDArray[np.float64]
    tile_xy: tuple[int, int]

    def to_tile(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Turn boxes (n, 4) xyxy of the input into boxes of the tile, clipped to it."""
        shift, scale = np.tile(self.shift_xy, 2), np.tile(self.scale_xy, 2)
        moved = (np.asarray(boxes, np.float64).reshape(-1, 4) - shift) / scale
        return np.clip(moved, 0, np.tile(self.tile_xy, 2))


def prepared(
    tile: NDArray[Any], size_yx: tuple[int, int] | None, how: Preparation
) -> tuple[NDArray[np.float32], Placed]:  # fmt: skip
    """Return a tile as (3, y, x) float32, and where it lies in it.

    Parameters
    ----------
    tile : numpy.ndarray
        (band, y, x) uint8; the first three bands are red, green, blue; one band is grey.
    size_yx : tuple of int or None
        Of the input; None where the network takes any.
    how : Preparation

    Raises
    ------
    EndpointError
        If the tile is not uint8.
    """
    from PIL import Image

    if tile.dtype != np.uint8:
        raise EndpointError(f"the model takes uint8 tiles, these are {tile.dtype}; scale them first: geotile.rescale")
    rgb = tile[:3] if len(tile) >= 3 else np.repeat(tile[:1], 3, 0)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(rgb, 0, -1)))
    width, height = picture.size
    rows, columns = size_yx or (height, width)
    scale = np.array([columns / width, rows / height])
    if how.fit in ("corner", "centre"):
        scale = np.full(2, scale.min())
    across, down = max(1, round(width * scale[0])), max(1, round(height * scale[1]))
    shift = np.zeros(2)
    if how.fit == "centre":
        shift = np.array([(columns - across) // 2, (rows - down) // 2], float)
    if (across, down) != picture.size:
        picture = picture.resize((across, down), Image.Resampling.BICUBIC if how.bicubic else Image.Resampling.BILINEAR)
    canvas = np.full((rows, columns, 3), _GREY, np.float32)
    x, y = int(shift[0]), int(shift[1])
    canvas[y : y + down, x : x + across] = np.asarray(picture, np.float32)
    colours = canvas[..., ::-1] if how.channels == "BGR" else canvas
    mean, deviation = np.array(how.mean, np.float32), np.array(how.deviation, np.float32)
    values = np.moveaxis((colours / np.float32(how.scale) - mean) / deviation, -1, 0)
    return np.ascontiguousarray(values, np.float32), Placed(scale, shift, (width, height))


def as_layout(pixels: NDArray[np.float32], shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return pixels (3, y, x) in the axes and type of an input.

    Raises
    ------
    ArgumentError
        If the input is of none that a picture fits.
    """
    tail = shape[-3:]
    picture: NDArray[Any] = pixels
    if tail[0] not in (None, 3) and tail[-1] == 3:
        picture = np.moveaxis(pixels, 0, -1)
    elif tail[0] not in (None, 3):
        raise ArgumentError(f"the model's input has shape {shape}: neither (…, 3, y, x) nor (…, y, x, 3)")
    return np.ascontiguousarray(picture, dtype)
