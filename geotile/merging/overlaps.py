"""Measures of how far pairs of boxes, or of shapes, overlap."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.choices import OverlapMetric
from geotile.errors import ArgumentError

Geometry = Literal["auto", "box"]
"""What is compared: the shapes, or their envelopes."""
Measure = OverlapMetric | Literal["inside"]
"""Intersection over the union, over the smaller area, or over the area of the second one."""


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], metric: Measure = "iou") -> NDArray[np.float64]:
    """Return the overlap of pairs of boxes.

    Parameters
    ----------
    a, b : numpy.ndarray
        (n, 4) float64, xyxy.
    metric : {"iou", "ios", "inside"}
        Intersection over the union (Jaccard index), over the smaller area, or over the area of `b`.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in [0, 1]. Two equal boxes overlap by 1, even if they have no area.

    Examples
    --------
    >>> overlap(np.array([[0., 0, 4, 4]]), np.array([[0., 0, 2, 4]]), "ios")
    array([1.])
    """
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    equal = (a[:, 0] == b[:, 0]) & (a[:, 1] == b[:, 1]) & (a[:, 2] == b[:, 2]) & (a[:, 3] == b[:, 3])
    return ratio(shared, box_areas(a), box_areas(b), metric, equal)


def shape_overlap(
    a: NDArray[np.object_], b: NDArray[np.object_], metric: Measure = "iou"
) -> NDArray[np.float64]:  # fmt: skip
    """Return the overlap of pairs of shapes, by their areas.

    Parameters
    ----------
    a, b : numpy.ndarray
        (n,) valid shapely geometries.
    metric : {"iou", "ios", "inside"}
        Intersection over the union, over the smaller area, or over the area of `b`.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in [0, 1]. Two equal shapes overlap by 1, even if they have no area.

    Examples
    --------
    >>> triangle = shapely.Polygon([(0, 0), (4, 0), (0, 4)])
    >>> shape_overlap(np.array([triangle]), np.array([shapely.box(0, 0, 4, 4)])).tolist()
    [0.5]
    """
    if not len(a):
        return np.zeros(0)
    shared = shapely.area(shapely.intersection(a, b))
    area_a, area_b = shapely.area(a), shapely.area(b)
    flat = np.minimum(area_a, area_b) == 0
    equal = np.zeros(len(a), bool)
    equal[flat] = shapely.equals(a[flat], b[flat])
    return ratio(shared, area_a, area_b, metric, equal)


def ratio(
    shared: NDArray[np.float64], area_a: NDArray[np.float64], area_b: NDArray[np.float64], metric: Measure,
    equal: NDArray[np.bool_],
) -> NDArray[np.float64]:  # fmt: skip
    """Return the shared area over the union, the smaller area or the second one; 1 where both are equal."""
    whole = area_a + area_b - shared if metric == "iou" else area_b
    if metric == "ios":
        whole = np.minimum(area_a, area_b)
    measure: NDArray[np.float64] = np.divide(shared, whole, out=equal.astype(np.float64), where=(whole > 0) & ~equal)
    return measure


def box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas of boxes, (n,) float64."""
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the boxes that pairs of boxes share, (n, 4); a box without extent where they share nothing."""
    low = np.maximum(a[:, :2], b[:, :2])
    return np.hstack([low, np.maximum(np.minimum(a[:, 2:], b[:, 2:]), low)])


def check_metric(value: object) -> None:
    """Raise an error if an overlap metric is unknown."""
    if not isinstance(value, str) or value not in get_args(OverlapMetric):
        raise ArgumentError(f"metric must be 'iou' or 'ios'; got {value!r}")


def are_boxes(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which shapes cover their envelopes, (n,) bool: boxes, upright lines and points."""
    sides = np.diff(shapely.bounds(shapes).reshape(-1, 2, 2), axis=1)[:, 0]
    lines = (shapely.get_dimensions(shapes) == 1) & (sides > 0).all(axis=1)
    return np.asarray(np.isclose(shapely.area(shapes), sides.prod(axis=1), rtol=1e-9, atol=0) & ~lines)


def are_four_sided(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which shapes are polygons of four corners without holes, (n,) bool, as oriented boxes are."""
    polygons = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    return np.asarray(
        polygons & (shapely.get_num_coordinates(shapes) == 5) & (shapely.get_num_interior_rings(shapes) == 0)
    )


def check_geometry(value: object) -> None:
    """Raise an error if what is compared is unknown."""
    if not isinstance(value, str) or value not in get_args(Geometry):
        raise ArgumentError(f"geometry must be 'auto' or 'box'; got {value!r}")


def clipped(shapes: NDArray[np.object_], windows: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return shapes cut off at the borders of their own windows.

    Parameters
    ----------
    shapes : numpy.ndarray
        (n,) valid shapely geometries.
    windows : numpy.ndarray
        (n, 4) float64, xyxy.
    """
    if not len(shapes):
        return shapes
    bounds = shapely.bounds(shapes)
    outside = (bounds[:, :2] < windows[:, :2]).any(axis=1) | (bounds[:, 2:] > windows[:, 2:]).any(axis=1)
    if not outside.any():
        return shapes
    cut: Any = shapes.copy()
    cut[outside] = shapely.intersection(shapes[outside], shapely.box(*windows[outside].T))
    for row in np.flatnonzero(shapely.get_type_id(cut) == shapely.GeometryType.GEOMETRYCOLLECTION):
        cut[row] = _largest_dimension(cut[row])
    return np.asarray(cut, object)


def _largest_dimension(collection: Any) -> Any:
    """Return the parts of a collection with the most dimensions: of a polygon, without where it only touches."""
    parts = shapely.get_parts(collection)
    dimensions = shapely.get_dimensions(parts)
    return shapely.union_all(parts[dimensions == dimensions.max(initial=-1)])
