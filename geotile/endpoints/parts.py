"""Shapes and key points of returned objects: masks, corners of oriented boxes, polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_array, as_numbers
from geotile.endpoints.run_lengths import Size, check_mask_size, segmentation_shape
from geotile.errors import ResponseError
from geotile.geometry.masks import mask_polygon
from geotile.geometry.oriented import corners_of

_LIKELY = 0.5  # probability from which a pixel belongs to the object, as in torchvision's examples


def is_given(part: Any) -> bool:
    """Return whether a part of an object is there: neither None nor without rows."""
    return part is not None and (not hasattr(part, "__len__") or len(part) > 0)


def mask_shapes(masks: Any, tile_yx: Size | None) -> list[Any]:
    """Return masks as polygons along the edges of their pixels, in pixels of the tile; empty ones without a pixel.

    Parameters
    ----------
    masks : object
        (n, y, x) or (n, 1, y, x) truth values, whole numbers, of which 0 is outside, or probabilities; supervision's
        ``CompactMask``; or a list of the run lengths or polygons of COCO.
    tile_yx : tuple of int, optional
        Height and width of the tile, which the masks must have.

    Raises
    ------
    ResponseError
        If the masks are something else, or have another size than the tile.
    """
    if hasattr(masks, "crop") and hasattr(masks, "offsets"):  # CompactMask: a part of the mask for each object
        check_mask_size(tuple(masks.shape[1:]), tile_yx)
        return [mask_polygon(masks.crop(k), *map(int, masks.offsets[k])) for k in range(len(masks))]
    if isinstance(masks, list | tuple) and not any(hasattr(each, "shape") for each in masks):
        return [segmentation_shape(each, tile_yx) for each in masks]
    return [mask_polygon(pixels_of(mask, tile_yx)) for mask in masks]


def pixels_of(mask: Any, tile_yx: Size | None = None) -> NDArray[np.bool_]:
    """Return which pixels belong to a mask of truth values, whole numbers or probabilities, (y, x) bool.

    Raises
    ------
    ResponseError
        If the mask has another size than the tile, or holds something else.
    """
    values = as_array(mask)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values  # torchvision's axis of channels
    check_mask_size(values.shape, tile_yx)
    if values.dtype.kind == "f":
        if not ((values >= 0) & (values <= 1)).all():
            raise ResponseError("a mask must hold probabilities from 0 to 1; convert logits by the sigmoid first")
        return np.asarray(values > _LIKELY)
    if values.dtype.kind not in "biu":
        raise ResponseError(f"a mask must hold truth values or numbers; got {values.dtype}")
    return values.astype(bool)


def oriented_shapes(corners: Any) -> list[Any]:
    """Return oriented boxes as polygons.

    Parameters
    ----------
    corners : array_like
        (n, 4, 2), or (n, 8) as DOTA writes them: x and y of the corners in pixels of the tile, one after the other
        around the box.

    Raises
    ------
    ResponseError
        If they have another shape.
    """
    values = as_numbers(corners, "xyxyxyxy")
    values = values.reshape(-1, 4, 2) if values.ndim == 2 and values.shape[1] == 8 else values
    if values.ndim != 3 or values.shape[1:] != (4, 2):
        raise ResponseError(f"the corners of oriented boxes must have shape (n, 4, 2); got {values.shape}")
    return [shapely.Polygon(each) if np.isfinite(each).all() else shapely.Polygon() for each in values]


def rotated_shapes(xywhr: Any) -> list[Any]:
    """Return oriented boxes (n, 5), cx cy w h in pixels of the tile and an angle in radians, as polygons.

    Raises
    ------
    ResponseError
        If they have another shape.
    """
    values = as_numbers(xywhr, "xywhr")
    if values.ndim != 2 or values.shape[1] != 5:
        raise ResponseError(
            f"xywhr must have shape (n, 5): cx, cy, w, h and the angle in radians; got {values.shape}. Give the scores "
            "of MMRotate's rows, their sixth column, as scores"
        )
    turned = np.abs(values[:, 4])
    if (turned[np.isfinite(turned)] > 2 * np.pi).any():
        raise ResponseError(
            f"the angles of xywhr must be radians, from -2π to 2π; got {np.nanmax(turned):g}. Convert degrees with "
            "numpy.radians"
        )
    return oriented_shapes(corners_of(values))


def keypoint_lists(keypoints: Any, scores: Any = None) -> list[Any]:
    """Return key points as lists of [x, y] or [x, y, score].

    Parameters
    ----------
    keypoints : array_like
        (n, k, 2) x and y in pixels of the tile, or (n, k, 3) with a score or the visibility.
    scores : array_like, optional
        (n, k) scores that replace the third value.

    Raises
    ------
    ResponseError
        If they have another shape.
    """
    values = as_numbers(keypoints, "keypoints")
    if values.ndim != 3 or values.shape[2] not in (2, 3):
        raise ResponseError(f"key points must have shape (n, k, 2) or (n, k, 3); got {values.shape}")
    if scores is not None:
        column = as_numbers(scores, "scores of the key points")
        if column.shape != values.shape[:2]:
            raise ResponseError(f"key points must have scores of shape {values.shape[:2]}; got {column.shape}")
        values = np.concatenate([values[..., :2], column[..., None]], axis=2)
    listed: list[Any] = values.tolist()
    return listed
