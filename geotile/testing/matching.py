"""Precision and recall of detections against known objects."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.results.frame import image_geometry

_BOX = ["xmin", "ymin", "xmax", "ymax"]
_TOLERANCE_PX = 1e-6


def match(truth: gpd.GeoDataFrame, detections: gpd.GeoDataFrame, iou: float = 0.5) -> tuple[float, float]:
    """Return precision and recall; each true object matches at most one detection of its label.

    Where both tables have shapes, the shapes are compared, otherwise the boxes.

    Parameters
    ----------
    truth, detections : geopandas.GeoDataFrame
        Tables with ``label`` and ``xmin, ymin, xmax, ymax`` in image pixels; detections in order of decreasing score.
        Shapes are those of ``image_geometry``, as `geotile.detect` returns it, or else of a ``geometry`` in image
        pixels, whose bounds are the boxes.
    iou : float, default 0.5
        Minimum intersection over union of the shapes, or of the boxes, of a match.

    Returns
    -------
    precision : float
        Fraction of the detections that match a true object.
    recall : float
        Fraction of the true objects that match a detection.

    Examples
    --------
    >>> ship = shapely.Polygon([(0, 20), (20, 0), (24, 4), (4, 24)])
    >>> tables = [gpd.GeoDataFrame({"label": ["ship"]}, geometry=[shape]) for shape in (ship, ship.envelope)]
    >>> for table in tables:
    ...     table[["xmin", "ymin", "xmax", "ymax"]] = table.geometry.bounds
    >>> match(*tables)
    (0.0, 0.0)
    >>> match(tables[0], tables[1].drop(columns="geometry"))  # has boxes only
    (1.0, 1.0)
    """
    found = [_shapes(table) for table in (truth, detections)]
    if any(each is None for each in found):
        found = [shapely.box(*table[_BOX].to_numpy(np.float64).T) for table in (truth, detections)]
    true_shapes, shapes = (np.asarray(each, object).reshape(-1) for each in found)
    tree, unmatched, matches = shapely.STRtree(true_shapes), np.ones(len(truth), bool), 0
    for shape, label in zip(shapes, detections["label"], strict=True):
        near = tree.query(shape)
        near = near[unmatched[near] & (truth["label"].to_numpy()[near] == label)]
        ious = _ious(true_shapes[near], shape)
        if len(ious) and ious.max() >= iou:
            unmatched[near[ious.argmax()]] = False
            matches += 1
    return matches / max(len(detections), 1), matches / max(len(truth), 1)


def _shapes(table: gpd.GeoDataFrame) -> NDArray[np.object_] | None:
    """Return the shapes of a table in image pixels; None if it has only boxes."""
    if "image_geometry" in table:
        return np.asarray(image_geometry(table), object)
    if not isinstance(table, gpd.GeoDataFrame) or table.active_geometry_name is None:
        return None
    shapes = np.asarray(table.geometry, object)
    in_pixels = np.abs(shapely.bounds(shapes).reshape(-1, 4) - table[_BOX].to_numpy(np.float64)) <= _TOLERANCE_PX
    return shapes if in_pixels.all() else None


def _ious(shapes: NDArray[np.object_], other: Any) -> NDArray[np.float64]:
    shared = shapely.area(shapely.intersection(shapes, other))
    union = shapely.area(shapes) + other.area - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(shapes)), where=union > 0))
