"""Measures of shapes: the angle and the sides of oriented boxes, and areas on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from geotile.geometry.georeference import Georeference, is_degrees
from geotile.geometry.grid_mapping import crs_named
from geotile.geometry.ground import geodesics
from geotile.merging.detections import Detections
from geotile.merging.overlaps import are_boxes, are_four_sided

MEASURES = ("angle_deg", "heading_deg", "length_m", "width_m", "area_m2")
"""Columns of a result for shapes that are not boxes; NaN for all others."""


@dataclass(frozen=True)
class _Ground:
    """Longitudes and latitudes of an image's pixels, and the ellipsoid on which they lie."""

    georeference: Georeference
    crs: str
    ellipsoid: pyproj.Geod

    @classmethod
    def of(cls, georeference: Georeference) -> _Ground | None:
        """Return the ground of an image; None without a georeference, or if its CRS is of no body."""
        if georeference.placement is None or georeference.crs is None:
            return None
        crs = crs_named(georeference.crs)
        ellipsoid, geographic = crs.get_geod(), crs.geodetic_crs
        if ellipsoid is None or geographic is None or not is_degrees(wkt := geographic.to_wkt()):
            return None
        return cls(georeference, wkt, ellipsoid)

    def degrees(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitudes and latitudes of pixels, (n, 2) float64; not finite off the ground."""
        return self.georeference.points_to_world(xy, self.crs)


def shape_measures(
    found: Detections, georeference: Georeference, scale_yx: tuple[float, float]
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """Return the measures of detections by name, each (n,) float64.

    Parameters
    ----------
    found : Detections
        Detections in image pixels.
    georeference : Georeference
        Georeference of the image.
    scale_yx : tuple of float
        Pixels of the full resolution per pixel of the image, down and across.

    Returns
    -------
    dict of str to numpy.ndarray
        Of oriented boxes ``angle_deg``, the direction of the longer side in pixels of the full resolution, clockwise
        from the image's x axis, in [0, 180). Where the image has a georeference, also ``heading_deg``, the direction of
        the longer side on the ground clockwise from north, in [0, 180), and ``length_m`` and ``width_m``, the longer
        and the shorter side. Of oriented boxes and polygons ``area_m2``. All are
        measured on the ellipsoid of the image's CRS.
    """
    measures = {name: np.full(len(found), np.nan) for name in MEASURES}
    has_area = shapely.get_dimensions(found.geometries) == 2
    plain = has_area & (shapely.bounds(found.geometries) != found.boxes).any(axis=1)  # boxes may leave their tile
    plain[plain] = are_boxes(found.geometries[plain]) & ~found.oriented[plain]
    has_area &= ~plain
    ground = _Ground.of(georeference) if has_area.any() else None
    boxes = np.flatnonzero(found.oriented & has_area & are_four_sided(found.geometries))
    if len(boxes):
        corners = shapely.get_coordinates(shapely.get_exterior_ring(found.geometries[boxes])).reshape(-1, 5, 2)[:, :4]
        measures["angle_deg"][boxes] = _angle_deg(corners * [scale_yx[1], scale_yx[0]])
        if ground is not None:
            for name, values in zip(MEASURES[1:4], _on_ground(corners, ground), strict=True):
                measures[name][boxes] = values
    if ground is not None:
        areas = np.flatnonzero(has_area)
        measures["area_m2"][areas] = _area_m2(found.geometries[areas], ground)
    return measures


def _angle_deg(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the direction of the longer side of rectangles, (n,), of their corners, (n, 4, 2)."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    longer = (np.hypot(*first.T) >= np.hypot(*second.T))[:, None]
    x, y = np.where(longer, first, second).T
    return _half_turn(np.degrees(np.arctan2(y, x)))


def _half_turn(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return directions without a front, in [0, 180)."""
    turned = np.mod(degrees, 180)
    return np.where(turned >= 180, 0.0, turned)  # the remainder of a tiny negative number rounds to 180


def _on_ground(corners: NDArray[np.float64], ground: _Ground) -> tuple[NDArray[np.float64], ...]:
    """Return the heading, the length and the width of rectangles; NaN for those that are not wholly on Earth."""
    middles = (corners + np.roll(corners, -1, axis=1)) / 2  # of the four sides; opposite ones are joined by the axes
    degrees = ground.degrees(middles.reshape(-1, 2)).reshape(-1, 4, 2)
    one, one_m = geodesics(ground.ellipsoid, degrees[:, 0], degrees[:, 2])
    other, other_m = geodesics(ground.ellipsoid, degrees[:, 1], degrees[:, 3])
    heading = _half_turn(np.where(one_m >= other_m, one, other))
    known = np.isfinite(degrees).all(axis=(1, 2))
    values = heading, np.maximum(one_m, other_m), np.minimum(one_m, other_m)
    return tuple(np.where(known, value, np.nan) for value in values)


def polygon_areas(shapes: NDArray[np.object_], georeference: Georeference) -> NDArray[np.float64]:
    """Return the areas of polygons in pixels of an image, in m², (n,) float64; NaN without a georeference."""
    ground = _Ground.of(georeference)
    return np.full(len(shapes), np.nan) if ground is None else _area_m2(shapes, ground)


def _area_m2(shapes: NDArray[np.object_], ground: _Ground) -> NDArray[np.float64]:
    """Return the areas of polygons on the ellipsoid; NaN for those that are not wholly on Earth."""
    placed: Any = shapely.transform(shapes, ground.degrees)
    known = np.isfinite(shapely.bounds(placed)).all(axis=1)
    areas = np.full(len(shapes), np.nan)
    for row in np.flatnonzero(known):
        areas[row] = sum(_polygon_m2(part, ground.ellipsoid) for part in _polygons(placed[row]))
    return areas


def _polygons(shape: Any) -> NDArray[np.object_]:
    """Return the polygons of a shape, which can be a collection of collections, points and lines."""
    parts = shapely.get_parts(shape)
    while (shapely.get_type_id(parts) >= shapely.GeometryType.MULTIPOINT).any():
        parts = shapely.get_parts(parts)
    return np.asarray(parts[shapely.get_dimensions(parts) == 2])


def _polygon_m2(polygon: Any, ellipsoid: pyproj.Geod) -> float:
    """Return the area of a polygon without its holes; the winding of rings says nothing across the antimeridian."""
    outer, *holes = (
        abs(ellipsoid.polygon_area_perimeter(*shapely.get_coordinates(ring).T)[0])
        for ring in (polygon.exterior, *polygon.interiors)
    )
    return float(outer - sum(holes))
