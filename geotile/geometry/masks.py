"""Masks as polygons along the edges of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray

from geotile.core.warning_filter import filters_kept


def mask_polygon(mask: NDArray[np.bool_], x: int = 0, y: int = 0) -> Any:
    """Return the area of the pixels of a mask, with its holes and all its parts.

    Parameters
    ----------
    mask : numpy.ndarray
        (y, x) bool.
    x, y : int
        Position of the upper-left pixel.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        A valid geometry; an empty polygon if no pixel is set.

    Examples
    --------
    >>> mask_polygon(np.array([[True, True], [True, False]]), 10, 20).area
    3.0
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return shapely.Polygon()
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if window.all():
        shape: Any = shapely.box(0, 0, *window.shape[::-1])
    else:
        with filters_kept():
            rings = [each["coordinates"] for each, _ in rasterio.features.shapes(window.astype(np.uint8), mask=window)]
        parts = [shapely.Polygon(outer, inner) for outer, *inner in rings]
        shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    with filters_kept():
        is_valid = shape.is_valid
    if not is_valid:  # a hole that touches the outline in a corner of a pixel
        shape = shapely.make_valid(shape)
    corner = np.array([x + columns[0], y + rows[0]])
    return shapely.transform(shape, lambda xy: xy + corner)
