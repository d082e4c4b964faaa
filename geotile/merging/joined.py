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
    boxes_as_box: bool = True,
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
    boxes_as_box : bool
        Whether the union of boxes is the box around them, and that of oriented boxes the smallest oriented box around
        them. The union of other shapes is always what they cover together.

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
        parts = ranked.select(np.sort(rows[starts[k] : starts[k] + sizes[k]]))
        shapes[k], oriented[k] = _union(parts, boxes_as_box=boxes_as_box)
    return replace(joined, boxes=np.hstack([low, high]), geometries=shapes, oriented=oriented)


def _union(parts: Detections, *, boxes_as_box: bool) -> tuple[Any, bool]:
    """Return the geometry of several detections together, and whether it is an oriented box."""
    shapes = parts.image_geometries
    if not boxes_as_box:
        return shapely.union_all(shapes), False
    if parts.oriented.all():
        around = shapely.minimum_rotated_rectangle(shapely.union_all(shapes))
        return around, bool(shapely.get_dimensions(around) == 2)
    if are_boxes(shapes).all():
        x0, y0, x1, y1 = shapely.total_bounds(shapes)
        return box_geometries(np.array([[x0, y0, x1, y1]]))[0], False
    return shapely.union_all(shapes), False
