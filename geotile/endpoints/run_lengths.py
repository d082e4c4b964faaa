"""Masks and polygons in COCO's notations: run lengths, compressed or not, and lists of coordinates."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_numbers
from geotile.errors import ResponseError
from geotile.geometry.masks import mask_polygon

Size = tuple[int, int]  # (y, x) of the tile in pixels


def segmentation_shape(segmentation: Any, tile_yx: Size | None = None) -> Any:
    """Return the shape that a ``segmentation`` of COCO describes.

    Parameters
    ----------
    segmentation : list or mapping
        Polygons, each ``[x0, y0, x1, y1, ...]``, which belong together; or ``{"size": [y, x], "counts": ...}``.
    tile_yx : tuple of int, optional
        Height and width of the tile, which a mask must have.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        Shape in pixels; of polygons perhaps not a valid one.

    Raises
    ------
    ResponseError
        If it is neither, or the mask has another size than the tile.

    Examples
    --------
    >>> segmentation_shape([[0, 0, 4, 0, 4, 3, 0, 3]]).area
    12.0
    >>> segmentation_shape({"size": [2, 3], "counts": [1, 4, 1]}).area
    4.0
    """
    if isinstance(segmentation, Mapping):
        return mask_polygon(run_length_mask(segmentation, tile_yx))
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise ResponseError(f"a segmentation must be polygons or run lengths; got {type(segmentation).__name__}")
    parts = []
    for each in segmentation:
        flat = as_numbers(each, "segmentation")
        if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
            raise ResponseError("a polygon of a segmentation must be x0, y0, x1, y1, ... of at least three points")
        parts.append(shapely.Polygon(flat.reshape(-1, 2)))
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def run_length_mask(encoded: Mapping[str, Any], tile_yx: Size | None = None) -> NDArray[np.bool_]:
    """Return the mask (y, x) bool in COCO's run lengths: of zeros, ones, zeros ..., column by column.

    Raises
    ------
    ResponseError
        If they are not such run lengths, or the mask has another size than the tile.

    References
    ----------
    ``maskApi.c`` of pycocotools, ``rleFrString``.
    """
    try:
        height, width = (int(side) for side in encoded["size"])
        counts = encoded["counts"]
        if isinstance(counts, str | bytes):
            counts = _counts(counts.encode() if isinstance(counts, str) else counts)
        runs = np.asarray([operator.index(run) for run in counts], np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResponseError(f"run lengths must have size [y, x] and counts; {type(error).__name__}: {error}") from None
    check_mask_size((height, width), tile_yx)
    total = sum(runs.tolist())  # the sum of huge numbers in an array would wrap around
    if (runs < 0).any() or total != height * width:
        raise ResponseError(f"run lengths must add up to the {height} x {width} pixels of their mask; got {total}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _counts(text: bytes) -> list[int]:
    """Return the numbers in a text of COCO: five bits in each character, from the third on as differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{character!r} cannot be part of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return counts


def check_mask_size(mask_yx: tuple[int, ...], tile_yx: Size | None) -> None:
    """Check that a mask covers the tile.

    Raises
    ------
    ResponseError
        If it has another size.
    """
    if len(mask_yx) != 2 or (tile_yx is not None and tuple(mask_yx) != tuple(tile_yx)):
        wanted = (
            "y and x of the tile" if tile_yx is None else f"the size of the tile, {tile_yx[0]} x {tile_yx[1]} pixels"
        )
        raise ResponseError(f"a mask must have {wanted}; got the shape {tuple(mask_yx)}. Resize the masks to the tile")
