"""Geometries that go round the Earth: cut at the antimeridian, and the length of a turn."""

from __future__ import annotations

import re
from typing import Any

import antimeridian
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from geotile.core.warning_filter import filters_kept, ignore_warnings

_ROUND, _NOT_ROUND = re.compile("Mercator|Cylindrical|Plate"), re.compile("Transverse|Oblique|Space|Cassini")


def crosses_antimeridian(bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which bounds, (n, 4) in degrees, leave -180 to 180 or jump across the antimeridian, (n,) bool."""
    west, _, east, _ = bounds.T
    return np.asarray((east - west > 180) | (west < -180) | (east > 180))


def cut_at_antimeridian(shapes: NDArray[np.object_], transformer: pyproj.Transformer | None) -> list[Any]:
    """Reproject geometries of the image's CRS to a geographic CRS and cut them at the antimeridian.

    The winding of a ring tells which side of it holds the pole, so rings are oriented in the image's CRS, where they
    are seen from above.
    """
    oriented = shapely.orient_polygons(shapes)
    if transformer is not None:
        oriented = shapely.transform(oriented, transformer.transform, interleaved=False)
    return [_wrapped(shape) for shape in oriented]


def _wrapped(shape: Any) -> Any:
    """Cut a geographic geometry at the antimeridian, and close a polygon around a pole that it contains."""
    if shape.geom_type == "GeometryCollection":
        return shapely.GeometryCollection([_wrapped(part) for part in shape.geoms])
    if "Polygon" not in shape.geom_type:
        shape = shapely.transform(shape, lambda xy: np.stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]], axis=1))
    if "Point" in shape.geom_type:
        return shape
    if shape.geom_type == "MultiPolygon":
        return shapely.union_all([part for part in map(_wrapped, shape.geoms) if part is not None])
    if shape.geom_type == "Polygon" and shape.interiors:
        return _wrapped_with_holes(shape)
    with ignore_warnings(antimeridian.FixWindingWarning):  # it warns about every ring that is wound clockwise
        fixed = shapely.geometry.shape(antimeridian.fix_shape(shapely.geometry.mapping(shape)))
    with filters_kept():
        is_valid = fixed.is_valid
    return fixed if is_valid else shapely.make_valid(fixed)


def _wrapped_with_holes(polygon: Any) -> Any:
    """Cut a geographic polygon and its holes at the antimeridian, each for itself."""
    rings = [shapely.Polygon(ring) for ring in (polygon.exterior, *map(shapely.reverse, polygon.interiors))]
    outer, *holes = map(_wrapped, rings)
    return shapely.difference(outer, shapely.union_all(holes))


def turn_of(crs: pyproj.CRS) -> float | None:
    """Return how far x goes on for one turn around the Earth; None if x does not go round it.

    Examples
    --------
    >>> turn_of(pyproj.CRS(4326)), turn_of(pyproj.CRS(32631)), round(turn_of(pyproj.CRS(3857)))
    (360.0, None, 40075017)
    """
    if crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else np.deg2rad(1)
        return float(2 * np.pi / unit)
    method = "" if crs.coordinate_operation is None else crs.coordinate_operation.method_name
    if crs.geodetic_crs is None or not _ROUND.search(method) or _NOT_ROUND.search(method):
        return None
    x, _ = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform([-0.5, 0.5], [0, 0])
    return float(abs(x[1] - x[0]) * 360)
