"""Repair of the shapes in a model's answer: merging takes valid shapes that are not empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.warning_filter import filters_kept

_MAX_CROSSINGS = 100_000  # pairs of segments in an answer: repairing them takes about 2 s, and more than linear time
_MAX_CHECKED = 100_000_000  # pairs in an answer that are checked for crossings: GEOS takes about 2 s
_MANY_POINTS = 2_000  # of a shape whose pairs are counted before that
_TANGLED = "the shapes of the answer cross themselves too often to be repaired"
_SAMPLED = 200  # segments of a shape for which the others are counted
_AREAS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """Shapes of an answer, those that were not valid made valid."""

    shapes: NDArray[np.object_]
    """(n,) valid shapely geometries of two dimensions; None where there is no shape, or nothing is left of it."""
    repaired: NDArray[np.bool_]
    """(n,) bool, whether the shape was not valid and was made so."""
    lost: NDArray[np.bool_]
    """(n,) bool, whether nothing is left of the shape: it is empty, has no area, or is not finite."""
    reasons: NDArray[np.object_]
    """(n,) str, what was wrong with a shape; None where it was valid."""


def repair(geometries: NDArray[np.object_]) -> Repair:
    """Return geometries that are valid: of a polygon the area that its rings enclose, with its holes.

    Parameters
    ----------
    geometries : numpy.ndarray
        (n,) shapely geometries, or None.

    References
    ----------
    `shapely.make_valid` with the method "structure": rings are repaired one by one, and holes are subtracted.

    Examples
    --------
    >>> bow_tie = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    >>> fixed = repair(np.array([bow_tie, None], object))
    >>> fixed.shapes[0].geom_type, fixed.shapes[0].area, fixed.repaired.tolist(), fixed.reasons[0]
    ('MultiPolygon', 8.0, [True, False], 'Self-intersection[2 2]')
    """
    shapes = geometries.copy()
    given = np.flatnonzero(shapes != None)  # noqa: E711 - element by element
    repaired, lost = np.zeros(len(shapes), bool), np.zeros(len(shapes), bool)
    reasons = np.full(len(shapes), None, object)
    shapes[given] = shapely.force_2d(shapes[given])
    for row in given[shapely.get_type_id(shapes[given]) == shapely.GeometryType.LINEARRING]:
        shapes[row] = shapely.LineString(shapes[row])  # formats of files know no other
    empty = given[shapely.is_empty(shapes[given]) | ~_finite(shapes[given])]
    lost[empty], reasons[empty] = True, "it is empty or not finite"
    tangled = given[_are_tangled(shapes[given])]
    lost[tangled], reasons[tangled] = True, _TANGLED
    crossings = 0.0
    checked = given[~lost[given]]
    with filters_kept():
        valid = shapely.is_valid(shapes[checked])
    for row in checked[~valid]:
        more = _crossings(shapes[row])
        if crossings + more > _MAX_CROSSINGS:
            lost[row], reasons[row] = True, _TANGLED
            continue
        crossings += more
        reasons[row] = shapely.is_valid_reason(shapes[row])
        shapes[row] = _made_valid(shapes[row])
        lost[row] = shapes[row].is_empty
        repaired[row] = not lost[row]
    shapes[lost] = None
    return Repair(shapes=shapes, repaired=repaired, lost=lost, reasons=reasons)


def _finite(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which shapes have finite coordinates alone."""
    coordinates, rows = shapely.get_coordinates(shapes, return_index=True)
    finite = np.ones(len(shapes), bool)
    finite[rows[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


def _are_tangled(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which shapes are so tangled that even the check whether all of them are valid takes too long."""
    tangled, total = np.zeros(len(shapes), bool), 0.0
    for row in np.flatnonzero(shapely.get_num_coordinates(shapes) > _MANY_POINTS):
        more = _crossings(shapes[row])
        tangled[row] = total + more > _MAX_CHECKED
        total += 0 if tangled[row] else more
    return tangled


def _crossings(shape: Any) -> float:
    """Return about how many pairs of segments of a shape have envelopes that touch, without those of neighbours."""
    points, lines = shapely.get_coordinates(shapely.get_parts(shapely.get_rings(shape)), return_index=True)
    follows = np.flatnonzero(lines[1:] == lines[:-1])
    if not len(follows):
        return 0.0
    segments = np.asarray(shapely.linestrings(np.stack([points[follows], points[follows + 1]], axis=1)), object)
    sampled = segments[:: max(1, len(segments) // _SAMPLED)]
    tree = shapely.STRtree(segments)
    found = sum(len(tree.query(each)) for each in sampled) / len(sampled)
    return float(max(0.0, found - 3) * len(segments) / 2)


def _made_valid(shape: Any) -> Any:
    if shapely.get_type_id(shape) not in _AREAS:
        return shapely.make_valid(shape)
    fixed = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    with filters_kept():
        is_valid = fixed.is_valid
    if is_valid and shapely.get_type_id(fixed) in _AREAS:
        return fixed
    parts = shapely.get_parts(shapely.make_valid(fixed))  # rounding leaves parts that share an edge, and lines
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
