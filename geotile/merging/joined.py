"""Several detections of one object as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.merging.detections import Detections, box_geometries
from geotile.merging.overlaps import are_boxes

_SAME_ANGLE = np.sin(np.radians(5))
_LONG = 2.0  # length over width from which a rectangle shows the direction of its object


def join_groups(
    ranked: Detections, groups: NDArray[np.int64], *, weights: NDArray[np.float64] | None = None,
    visible: NDArray[np.object_] | None = None, boxes_as_box: bool = True,
) -> Detections:  # fmt: skip
    """Return one detection for each group: the union of the geometries, and the rest of one of its members.

    Parameters
    ----------
    ranked : Detections
        Detections, highest rank first.
    groups : numpy.ndarray
        (n,) int64, number of each one's group.
    weights : numpy.ndarray, optional
        (n,) float64. The member with the largest gives the label, the score and the properties; by default, and of
        equal ones, the first one does.
    visible : numpy.ndarray, optional
        (n,) geometries, each cut off at the borders of its tile. Oriented boxes are joined by these, since the box of a
        part can reach beyond its tile.
    boxes_as_box : bool
        Whether the union of boxes is the box around them, and that of oriented boxes the box around them at the angle
        of the largest. The union of other shapes is always what they cover together.

    Returns
    -------
    Detections
        The groups, in the order of their numbers.
    """
    heaviest = np.arange(len(groups)) if weights is None else np.argsort(-weights, kind="stable")
    rows = heaviest[np.argsort(groups[heaviest], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[rows], prepend=-1))
    joined = ranked.select(rows[starts])
    sizes = np.diff(starts, append=len(rows))
    if not len(starts):
        return joined
    low = np.minimum.reduceat(ranked.boxes[rows, :2], starts)
    high = np.maximum.reduceat(ranked.boxes[rows, 2:], starts)
    shapes, oriented = joined.geometries.copy(), joined.oriented.copy()
    shaped = np.logical_or.reduceat((ranked.geometries != None)[rows], starts) | (not boxes_as_box)  # noqa: E711
    for k in np.flatnonzero((sizes > 1) & shaped):
        members = np.sort(rows[starts[k] : starts[k] + sizes[k]])
        parts = ranked.select(members)
        seen = parts.image_geometries if visible is None or not parts.oriented.all() else visible[members]
        shapes[k], oriented[k] = _union(parts, seen, boxes_as_box=boxes_as_box)
    return replace(joined, boxes=np.hstack([low, high]), geometries=shapes, oriented=oriented)


def _union(parts: Detections, shapes: NDArray[np.object_], *, boxes_as_box: bool) -> tuple[Any, bool]:
    """Return the geometry of several detections together, and whether it is an oriented box."""
    if not boxes_as_box:
        return shapely.union_all(shapes), False
    if parts.oriented.all():
        around = _rectangle_around(shapes, parts.geometries)
        return (around, True) if around is not None else (shapely.union_all(shapes), False)
    if are_boxes(shapes).all():
        x0, y0, x1, y1 = shapely.total_bounds(shapes)
        return box_geometries(np.array([[x0, y0, x1, y1]]))[0], False
    return shapely.union_all(shapes), False


def _rectangle_around(shapes: NDArray[np.object_], rectangles: NDArray[np.object_]) -> Any | None:
    """Return the rectangle around some shapes that has the angle of the rectangle around the largest.

    It is None if it has no area. The sliver of a long object that a corner of a tile cuts off tells little of its
    angle, and its own rectangle reaches beyond the object's sides. If the largest is at least twice as long as wide,
    those at another angle only tell how long the object is.
    """
    directions, sides = _long_sides(rectangles)
    largest = np.argmax(shapely.area(shapes))
    x, y = directions[largest]
    turn = np.array([[x, -y], [y, x]])
    corners, owners = shapely.get_coordinates(shapes, return_index=True)
    places = corners @ turn
    slanting = np.abs(directions @ turn).min(axis=1) > _SAME_ANGLE
    tells_width = ~slanting | (sides[largest, 0] < _LONG * sides[largest, 1])
    low, high = places.min(axis=0), places.max(axis=0)
    across = places[tells_width[owners], 1]
    low[1], high[1] = across.min(), across.max()
    if not (high > low).all():
        return None
    return shapely.Polygon(np.array([low, [high[0], low[1]], high, [low[0], high[1]]]) @ turn.T)


def _long_sides(rectangles: NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the direction of the longer side of each rectangle, and its length and width, both (n, 2) float64."""
    corners = np.stack([shapely.get_coordinates(each)[:3] for each in rectangles])
    edges = np.diff(corners, axis=1)
    lengths = np.hypot(edges[..., 0], edges[..., 1])
    order = np.argsort(-lengths, axis=1, kind="stable")
    sides = np.take_along_axis(lengths, order, axis=1)
    longer = np.take_along_axis(edges, order[:, :1, None], axis=1)[:, 0]
    return longer / np.maximum(sides[:, :1], np.finfo(float).tiny), sides
