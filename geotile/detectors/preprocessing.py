"""Preprocessing of tiles for a network: resized, letterboxed, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geotile.errors import EndpointError

Fit = Literal["stretch", "corner", "centre", "unchanged"]
Sides = tuple[int | None, int | None]  # height and width in pixels; None for any
_GREY = 114


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing with which the networks of a family were trained."""

    fit: Fit
    """How a tile gets the input's size: stretched; scaled with its own aspect ratio and put in the upper-left corner
    or the centre of a grey picture; or unchanged."""
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    """Divisor of the values 0 to 255, applied before `mean` and `deviation`."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Mean values that are subtracted, in the order of the channels."""
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Standard deviations that the values are divided by, in the order of the channels."""
    bicubic: bool = False
    """Whether tiles are resized with bicubic interpolation instead of bilinear interpolation."""

    def with_values(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Preprocessing:
        """Return the preprocessing with another mean or standard deviation.

        Parameters
        ----------
        mean, std : sequence of float, optional
            Of red, green and blue, in shares of 255, so that a value becomes ``(value / 255 - mean) / std``. By default
            those of the family.
        """
        if mean is None and std is None:
            return self
        order = slice(None, None, -1 if self.channels == "BGR" else 1)
        share = self.scale / 255
        return replace(
            self, scale=255.0,
            mean=tuple(m * share for m in self.mean) if mean is None else tuple(map(float, mean))[order],
            deviation=tuple(d * share for d in self.deviation) if std is None else tuple(map(float, std))[order],
        )  # fmt: skip


@dataclass(frozen=True)
class TilePosition:
    """Position of a tile in the input of a network: input = tile · scale + shift."""

    scale_xy: NDArray[np.float64]
    shift_xy: NDArray[np.float64]
    tile_xy: tuple[int, int]
    """Width and height of the tile in pixels."""
    input_yx: tuple[int, int]
    """Height and width of the input in pixels."""

    def to_tile(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Convert boxes (n, 4) xyxy from pixels of the input to pixels of the tile."""
        shift, scale = np.tile(self.shift_xy, 2), np.tile(self.scale_xy, 2)
        in_tile: NDArray[np.float64] = (np.asarray(boxes, np.float64).reshape(-1, 4) - shift) / scale
        return in_tile

    def points_to_tile(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Convert points (..., 2) xy from pixels of the input to pixels of the tile."""
        in_tile: NDArray[np.float64] = (np.asarray(points, np.float64) - self.shift_xy) / self.scale_xy
        return in_tile

    def clipped(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes (n, 4) xyxy in pixels of the tile, clipped to the tile."""
        return np.clip(boxes, 0, np.tile(self.tile_xy, 2))


def preprocess(
    tile: NDArray[Any], size_yx: Sides, preprocessing: Preprocessing, *, stride: int = 1, raw: bool = False
) -> tuple[NDArray[Any], TilePosition]:
    """Return a tile as a picture for the network, (3, y, x), and the position of the tile in it.

    Parameters
    ----------
    tile : numpy.ndarray
        (band, y, x) uint8. The first three bands are red, green and blue; a single band is grey.
    size_yx : tuple of int or None
        Height and width of the input in pixels; None for a side of any length.
    preprocessing : Preprocessing
        Preprocessing of the network's family.
    stride : int
        A side of any length gets the smallest multiple of this number of pixels that holds the tile.
    raw : bool
        Whether the network takes uint8, so that it scales the values itself; else the picture is float32.

    Raises
    ------
    EndpointError
        If the tile is not uint8, or has two bands.
    """
    if tile.dtype != np.uint8:
        raise EndpointError(
            f"the model takes uint8 tiles; got {tile.dtype}. Scale the image first with geotile.rescale"
        )
    if len(tile) == 2:
        raise EndpointError(
            "the model takes one band (grey) or three (red, green, blue); got 2. Choose them with bands="
        )
    rgb = tile[:3] if len(tile) >= 3 else np.repeat(tile[:1], 3, 0)
    canvas, position = _fitted(np.ascontiguousarray(np.moveaxis(rgb, 0, -1)), size_yx, preprocessing, stride)
    colours = canvas[..., ::-1] if preprocessing.channels == "BGR" else canvas
    if raw:
        return np.ascontiguousarray(np.moveaxis(colours, -1, 0), np.uint8), position
    mean, deviation = np.array(preprocessing.mean, np.float32), np.array(preprocessing.deviation, np.float32)
    values = np.moveaxis((colours / np.float32(preprocessing.scale) - mean) / deviation, -1, 0)
    return np.ascontiguousarray(values, np.float32), position


def _sides(tile_yx: tuple[int, int], size_yx: Sides, preprocessing: Preprocessing, stride: int) -> tuple[int, int]:
    """Return height and width of the picture: those of the input, or multiples of the stride that hold the tile."""
    step = 1 if preprocessing.fit == "unchanged" else stride
    rows, columns = (
        -(-side // step) * step if fixed is None else fixed for side, fixed in zip(tile_yx, size_yx, strict=True)
    )
    return rows, columns


def _fitted(
    pixels: NDArray[np.uint8], size_yx: Sides, preprocessing: Preprocessing, stride: int
) -> tuple[NDArray[np.float32], TilePosition]:
    """Return pixels (y, x, 3) in a picture of the input's size, (y, x, 3) float32, and their position in it."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    width, height = picture.size
    rows, columns = _sides((height, width), size_yx, preprocessing, stride)
    scale = np.array([columns / width, rows / height])
    if preprocessing.fit in ("corner", "centre"):
        scale = np.full(2, 1.0 if size_yx == (None, None) else scale.min())
    across, down = max(1, round(width * scale[0])), max(1, round(height * scale[1]))
    shift = np.zeros(2)
    if preprocessing.fit == "centre":  # Ultralytics takes the sides as they were rounded
        scale = np.array([across / width, down / height])
        shift = np.array([(columns - across) // 2, (rows - down) // 2], float)
    if (across, down) != picture.size:
        interpolation = Image.Resampling.BICUBIC if preprocessing.bicubic else Image.Resampling.BILINEAR
        picture = picture.resize((across, down), interpolation)
    canvas = np.full((rows, columns, 3), _GREY, np.float32)
    x, y = int(shift[0]), int(shift[1])
    canvas[y : y + down, x : x + across] = np.asarray(picture, np.float32)
    return canvas, TilePosition(scale, shift, (width, height), (rows, columns))


def as_layout(pixels: NDArray[Any], shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return pixels (3, y, x) with the axes and the dtype of an input of shape (…, 3, y, x) or (…, y, x, 3)."""
    last = shape[-1] == 3 and shape[-3] != 3
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1) if last else pixels, dtype)
