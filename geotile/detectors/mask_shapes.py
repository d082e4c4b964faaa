"""Masks of a network as polygons in pixels of the tile, one object at a time and only within its box."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.detectors.preprocessing import TilePosition
from geotile.geometry.masks import mask_polygon

Step = tuple[NDArray[np.int64], NDArray[np.float32]]  # the value before each place, and how far the place is from it
_LIKELY = 0.5  # probability from which a pixel belongs to the object, as in torchvision's examples


def prototype_shapes(
    coefficients: NDArray[Any], prototypes: NDArray[Any], boxes: NDArray[np.float64], position: TilePosition
) -> list[Any]:
    """Return the masks that are weighted sums of prototypes.

    A pixel of the tile belongs to an object if the sum, interpolated bilinearly at its centre, is above 0, and if the
    pixel's upper-left corner lies in the box, as in Ultralytics' ``process_mask_native``.

    Parameters
    ----------
    coefficients : numpy.ndarray
        (n, m), weights of the prototypes for each object.
    prototypes : numpy.ndarray
        (m, y, x), which cover the whole input.
    boxes : numpy.ndarray
        (n, 4) float64, xyxy in pixels of the tile, clipped to it.
    position : TilePosition
        Position of the tile in the input.

    Returns
    -------
    list of shapely.Polygon or shapely.MultiPolygon
        Shapes in pixels of the tile; empty polygons where no pixel belongs to the object.
    """
    shapes = []
    finer = _finer(prototypes, position)
    low, high = np.ceil(boxes[:, :2]).astype(int), np.ceil(boxes[:, 2:]).astype(int)
    for weights, (x0, y0), (x1, y1) in zip(coefficients, low, high, strict=True):
        if x0 >= x1 or y0 >= y1:  # the box contains no corner of a pixel
            shapes.append(shapely.Polygon())
            continue
        columns, across = _interpolation(np.arange(x0, x1), prototypes.shape[2], finer, position, 0)
        rows, down = _interpolation(np.arange(y0, y1), prototypes.shape[1], finer, position, 1)
        sums = np.tensordot(weights, prototypes[:, rows, columns], axes=1)
        mask = _interpolated(_interpolated(sums, down, axis=0), across, axis=1) > 0
        shapes.append(mask_polygon(mask, int(x0), int(y0)))
    return shapes


def _finer(prototypes: NDArray[Any], position: TilePosition) -> int:
    """Return how many times finer the prototypes must be so that the tile's borders lie between their cells."""
    stride = max(1, position.input_yx[0] // prototypes.shape[1])
    content = np.rint(position.scale_xy * position.tile_xy).astype(int)
    edges = np.concatenate([position.shift_xy.astype(int), content])
    return next((n for n in range(1, stride) if stride % n == 0 and not (edges * n % stride).any()), stride)


def _interpolation(
    pixels: NDArray[np.int64], cells: int, finer: int, position: TilePosition, axis: int
) -> tuple[slice, list[Step]]:
    """Return the cells that pixels along an axis need, and the steps from their values to those of the pixels.

    The prototypes become `finer` first, lose the grey border, and then get the resolution of the tile.
    """
    share = cells * finer / position.input_yx[1 - axis]
    content = max(1, round(position.scale_xy[axis] * position.tile_xy[axis] * share))
    places = np.clip((pixels + 0.5) * (content / position.tile_xy[axis]) - 0.5, 0, content - 1)
    needed, last = _step(places + round(position.shift_xy[axis] * share))
    if finer == 1:
        return needed, [last]
    coarse = (np.arange(needed.start, needed.stop) + 0.5) / finer - 0.5
    needed, first = _step(np.clip(coarse, 0, cells - 1))
    return needed, [first, last]


def _step(places: NDArray[np.float64]) -> tuple[slice, Step]:
    """Return the values that interpolation at some places needs, and the step."""
    before = np.floor(places).astype(np.int64)
    return slice(int(before[0]), int(before[-1]) + 2), (before - before[0], (places - before).astype(np.float32))


def _interpolated(values: NDArray[Any], steps: list[Step], axis: int) -> NDArray[Any]:
    """Return values between neighbours along an axis, step by step."""
    for before, share in steps:
        first = values.take(before, axis)
        after = values.take(np.minimum(before + 1, values.shape[axis] - 1), axis)
        values = first + (after - first) * (share[:, None] if axis == 0 else share)
    return values


def picture_shapes(masks: NDArray[Any], position: TilePosition) -> list[Any]:
    """Return masks that have the resolution of the input, (n, y, x) probabilities, as shapes in pixels of the tile."""
    if masks.shape[1:] != position.input_yx:
        raise ValueError(f"masks of {masks.shape[1:]} for an input of {position.input_yx}: they must cover the input")
    shapes = [mask_polygon(mask > _LIKELY) for mask in masks]
    return [shapely.transform(shape, position.points_to_tile) for shape in shapes]
