"""Several detections of one object as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.merging.detections import Detections, box_geometries
from geotile.merging.overlaps import are_boxes


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
        around = _rectangle_around(shapes, parts.geometries[np.argmax(shapely.area(parts.geometries))])
        return around, bool(shapely.get_dimensions(around) == 2)
    if are_boxes(shapes).all():
        x0, y0, x1, y1 = shapely.total_bounds(shapes)
        return box_geometries(np.array([[x0, y0, x1, y1]]))[0], False
    return shapely.union_all(shapes), False


def _rectangle_around(shapes: NDArray[np.object_], largest: Any) -> Any:
    """Return the rectangle around some shapes that has the angle of another rectangle.

    A small part of an object says little about its angle.
    """
    corners = shapely.get_coordinates(largest)[:3]
    first, second = corners[1] - corners[0], corners[2] - corners[1]
    x, y = first if np.hypot(*first) >= np.hypot(*second) else second
    turn = np.array([[x, -y], [y, x]]) / np.hypot(x, y)
    low, high = (bound(shapely.get_coordinates(shapes) @ turn, axis=0) for bound in (np.min, np.max))
    return shapely.Polygon(np.array([low, [high[0], low[1]], high, [low[0], high[1]]]) @ turn.T)
