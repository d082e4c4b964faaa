"""Masks of a network as polygons in pixels of the tile, one object at a time and only within its box."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.detectors.preprocessing import TilePosition
from geotile.geometry.masks import mask_polygon

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
        left, across = _interpolation(np.arange(x0, x1), prototypes.shape[2], finer, position, 0)
        top, down = _interpolation(np.arange(y0, y1), prototypes.shape[1], finer, position, 1)
        window = prototypes[:, top : top + down.shape[1], left : left + across.shape[1]]
        mask = down @ np.tensordot(weights, window, axes=1) @ across.T > 0
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
) -> tuple[int, NDArray[np.float32]]:
    """Return the first cell, and the weights (pixels, cells) of the cells from there on, for pixels along an axis.

    The prototypes become `finer` first, lose the grey border, and then get the resolution of the tile.
    """
    share = cells * finer / position.input_yx[1 - axis]
    content = max(1, round(position.scale_xy[axis] * position.tile_xy[axis] * share))
    places = np.clip((pixels + 0.5) * (content / position.tile_xy[axis]) - 0.5, 0, content - 1)
    places += round(position.shift_xy[axis] * share)
    start, first = _linear(places)
    if finer == 1:
        return start, first[:, : cells - start]
    fine = start + np.arange(first.shape[1])
    coarse, second = _linear(np.clip((fine + 0.5) / finer - 0.5, 0, cells - 1))
    return coarse, (first @ second)[:, : cells - coarse]


def _linear(places: NDArray[np.float64]) -> tuple[int, NDArray[np.float32]]:
    """Return the first whole number, and the weights (places, numbers) of the numbers from there on."""
    before = np.floor(places).astype(np.int64)
    start, rows = int(before[0]), np.arange(len(places))
    weights = np.zeros((len(places), int(before[-1]) - start + 2), np.float32)
    weights[rows, before - start] = 1 - (places - before)
    weights[rows, before - start + 1] = places - before
    return start, weights


def picture_shapes(masks: NDArray[Any], position: TilePosition) -> list[Any]:
    """Return masks that have the resolution of the input, (n, y, x) probabilities, as shapes in pixels of the tile."""
    if masks.shape[1:] != position.input_yx:
        raise ValueError(f"masks of {masks.shape[1:]} for an input of {position.input_yx}: they must cover the input")
    shapes = [mask_polygon(mask > _LIKELY) for mask in masks]
    return [shapely.transform(shape, position.points_to_tile) for shape in shapes]
