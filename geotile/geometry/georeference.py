"""Conversion of geometries from image pixels to a CRS and back, vectorised over all vertices.

Geographic results are valid at the antimeridian and at the poles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geotile.errors import ArgumentError, GeoreferenceError
from geotile.geometry.around_earth import crosses_antimeridian, cut_at_antimeridian, turn_of
from geotile.geometry.coordinates import (
    carried_transform,
    check_coordinates,
    counts_pixels,
    is_upright,
    pixel_transform_of,
    transform_of,
)
from geotile.geometry.grid_mapping import crs_named, crs_of, grid_mapping_of
from geotile.geometry.placement import AffinePlacement, GcpPlacement, Placement, Points
from geotile.geometry.rings import Rings, bounds_of_rings, polygons_of_rings, rings_of_boxes

WGS84 = "OGC:CRS84"
PLACEMENT = "geotile_placement"  # key of the Placement in the encoding of spatial_ref
_FARTHEST_DEG = 36_000.0  # largest coordinate in degrees: a hundred turns around the Earth
SCALE = "geotile_scale_yx"  # key in the attributes of spatial_ref: how much coarser than its file an image is (y, x)


@dataclass(frozen=True)
class Georeference:
    """Position of an image's pixels on the ground, if it has one."""

    placement: Placement | None
    """Mapping from pixels to the CRS; None for an image without a georeference."""
    crs: str | None
    """WKT of the coordinate reference system of the placement."""

    @property
    def transform(self) -> Affine | None:
        """The affine transform; None if the image has none."""
        return self.placement.transform if isinstance(self.placement, AffinePlacement) else None

    def to_world(self, shapes: NDArray[np.object_], crs: str | None) -> NDArray[np.object_]:
        """Convert geometries from image pixels to a CRS.

        Parameters
        ----------
        shapes : numpy.ndarray
            (n,) shapely geometries in image pixels, from the outer corner of the first pixel.
        crs : str or None
            WKT of the target CRS; None for the image's own.

        Returns
        -------
        numpy.ndarray
            (n,) shapely geometries; in pixels if the image has no georeference; None for a geometry with a vertex that
            has no position on Earth, or lies a hundred turns around it. In a geographic CRS, longitudes are in -180 to
            180, and geometries that cross the antimeridian or contain a pole are cut there (RFC 7946, 3.1.9).
        """
        if self.placement is None or not len(shapes):
            return shapes
        own = self.placement.to_world(shapely.get_coordinates(shapes))
        transformer = _transformer(self.crs, crs)
        converted = _with_coordinates(shapes, _reprojected(own, transformer))
        if self._counts_degrees(crs):
            converted[(np.abs(shapely.bounds(converted)) > _FARTHEST_DEG).any(axis=1)] = None
            crossing = np.flatnonzero(crosses_antimeridian(shapely.bounds(converted)))
            if len(crossing):
                uncut = _with_coordinates(shapes, np.nan_to_num(own))[crossing]
                converted[crossing] = cut_at_antimeridian(uncut, transformer)
        return converted

    def boxes_to_world(self, boxes: NDArray[np.float64], crs: str | None) -> NDArray[np.object_]:
        """Convert boxes as `to_world` converts their polygons, in half the time.

        Parameters
        ----------
        boxes : numpy.ndarray
            (n, 4) float64, xyxy in image pixels, with an area.
        crs : str or None
            As for `to_world`.
        """
        rings = self.rings_to_world(boxes, crs)
        whole = ~np.isnan(rings[:, 0, 0])
        shapes = np.empty(len(boxes), object)
        shapes[whole] = polygons_of_rings(rings[whole])
        shapes[~whole] = self.to_world(np.asarray(shapely.box(*boxes[~whole].T)), crs)
        return shapes

    def rings_to_world(self, boxes: NDArray[np.float64], crs: str | None) -> Rings:
        """Convert the outlines of boxes to a CRS, without making geometries.

        Parameters
        ----------
        boxes, crs
            As for `boxes_to_world`.

        Returns
        -------
        numpy.ndarray
            (n, 5, 2) float64, closed rings; NaN for a box that `to_world` does not convert to the polygon of its ring,
            since it has no position, is cut, or lies a hundred turns around the Earth.
        """
        rings = rings_of_boxes(boxes)
        if self.placement is None or not len(boxes):
            return rings
        rings = self.points_to_world(rings.reshape(-1, 2), crs).reshape(-1, 5, 2)
        rings[~np.isfinite(rings).all(axis=(1, 2))] = np.nan
        if self._counts_degrees(crs):
            bounds = bounds_of_rings(rings)
            rings[crosses_antimeridian(bounds) | (np.abs(bounds) > _FARTHEST_DEG).any(axis=1)] = np.nan
        return rings

    def _counts_degrees(self, crs: str | None) -> bool:
        """Return whether results in a CRS, None for the image's own, are geographic."""
        target = crs or self.crs
        return target is not None and bool(crs_named(target).is_geographic)

    def points_to_world(self, xy: Points, crs: str | None) -> Points:
        """Convert pixels of an image with a georeference to a CRS, (n, 2) float64; not finite off the Earth."""
        assert self.placement is not None  # callers check this first
        return _reprojected(self.placement.to_world(xy), _transformer(self.crs, crs))

    def to_pixels(self, shape: Any, crs: str) -> list[Any]:
        """Convert a geometry from a CRS to image pixels, with edges densified so that they follow curves.

        Returns
        -------
        list of shapely geometry
            The geometry, and, where the x axis of the CRS goes round the Earth, its copies one turn to either side: an
            image may count longitudes from 0 to 360, or continue beyond 180.

        Raises
        ------
        GeoreferenceError
            If the image has no georeference, or a part of the geometry has no position in the image.
        """
        if self.placement is None or self.crs is None:
            raise GeoreferenceError(
                "the image has no georeference, so roi cannot be used with it. Crop the image instead: "
                "open_image(uri)[:, y0:y1, x0:x1]"
            )
        x0, y0, x1, y1 = shape.bounds
        dense = shapely.segmentize(shape, max(x1 - x0, y1 - y0, 1e-9) / 64)
        transformer, placement = _transformer(crs, self.crs), self.placement

        def convert(xy: Points, shift: float) -> Points:
            pixels = placement.to_pixels(_reprojected(xy, transformer) + np.array([shift, 0]))
            if not np.isfinite(pixels).all():
                raise GeoreferenceError(
                    f"the area with bounds {shape.bounds} (xmin, ymin, xmax, ymax) has parts without a position in the "
                    "image. Use a smaller area"
                )
            return pixels

        # Polynomials hold near their image alone.
        turn = turn_of(crs_named(self.crs)) if isinstance(placement, AffinePlacement) else None
        shifts = (0.0,) if turn is None else (0.0, -turn, turn)
        return [shapely.transform(dense, partial(convert, shift=shift)) for shift in shifts]

    def for_pixels(self, pixel_transform: Affine) -> Georeference:
        """Return the georeference of another image of the same ground, such as a crop or a resampled image.

        Parameters
        ----------
        pixel_transform : Affine
            Transform from the pixels of the other image to the pixels of this one.
        """
        if self.placement is None or pixel_transform.is_identity:
            return self
        return Georeference(self.placement.for_pixels(pixel_transform), self.crs)


NO_GEOREFERENCE = Georeference(None, None)


def georeference_of(image: xr.DataArray) -> Georeference:
    """Read the georeference of an image.

    Raises
    ------
    GeoreferenceError
        If the image was placed by rational polynomials but no longer carries them, its coordinates are not evenly
        spaced, their units are not those of its CRS, or the CRS that it declares cannot be read.
    """
    spatial_ref = grid_mapping_of(image)
    attributes = {} if spatial_ref is None else spatial_ref.attrs
    carried = carried_transform(image)
    if counts_pixels(image) or carried is None or is_upright(carried):
        check_coordinates(image)
    pixel_transform = pixel_transform_of(image) if counts_pixels(image) else Affine.identity()
    crs = crs_of(image)
    wkt = None if crs is None else str(crs.to_wkt())
    if spatial_ref is not None and PLACEMENT in spatial_ref.encoding:
        return Georeference(spatial_ref.encoding[PLACEMENT], wkt).for_pixels(pixel_transform)
    if attributes.get("rpc"):
        raise GeoreferenceError(
            "the image was placed by rational polynomials, and an operation on the array has dropped them. Do not drop "
            "the spatial_ref coordinate and its encoding, or open it again with open_image"
        )
    if attributes.get("gcps"):
        points = tuple((p.col, p.row, p.x, p.y, p.z or 0.0) for p in image.rio.get_gcps())
        if not counts_pixels(image):
            raise GeoreferenceError(
                "the image is placed by ground control points, and has no coordinates that tell which part of its file "
                "it is. Open the file with geotile.open_image"
            )
        return Georeference(GcpPlacement(points), wkt).for_pixels(pixel_transform)
    transform = transform_of(image, crs)
    if counts_pixels(image):
        if carried is None:
            return NO_GEOREFERENCE
        transform = carried @ pixel_transform
    elif transform.is_identity:
        return NO_GEOREFERENCE
    return Georeference(AffinePlacement(transform), wkt)


def scale_yx(image: xr.DataArray) -> tuple[float, float]:
    """Return the size of an image's pixel in pixels of the full resolution, down and across."""
    spatial_ref = image.coords.get("spatial_ref")
    text = None if spatial_ref is None else spatial_ref.attrs.get(SCALE)
    if text is None:
        return 1.0, 1.0
    y, x = map(float, str(text).split())
    return y, x


def wkt_of(crs: Any) -> str:
    """Return the WKT of a CRS that is given in any form that pyproj accepts.

    Raises
    ------
    ArgumentError
        If pyproj does not accept it.
    """
    try:
        return str(pyproj.CRS.from_user_input(crs).to_wkt())
    except (pyproj.exceptions.CRSError, TypeError, ValueError) as error:  # it compares and serialises what it is given
        raise ArgumentError(
            f"crs must be a CRS that pyproj accepts, such as 'EPSG:4326'; got {crs!r} ({error})"
        ) from None


def is_degrees(crs: str) -> bool:
    """Return whether a CRS is geographic, with axes in degrees."""
    known = crs_named(crs)
    return bool(known.is_geographic and np.isclose(known.axis_info[0].unit_conversion_factor, np.deg2rad(1)))


def _with_coordinates(shapes: NDArray[np.object_], xy: Points) -> NDArray[np.object_]:
    """Return geometries with other coordinates; None for a geometry with a coordinate that is not finite."""
    first = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(shapes))[:-1]])
    lost = np.asarray(~np.isfinite(xy).all(axis=1))
    moved: NDArray[np.object_] = shapely.set_coordinates(shapes.copy(), np.where(lost[:, None], 0.0, xy))
    moved[np.logical_or.reduceat(lost, first)] = None
    return moved


@lru_cache(64)  # making one takes 1.4 ms; any thread may use it
def _transformer(source: str | None, target: str | None) -> pyproj.Transformer | None:
    """Return the transformer between two CRS; None if nothing is to be done."""
    if source is None or target is None or source == target:
        return None
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise GeoreferenceError(
            f"there is no way from the CRS {_name(source)!r} to {_name(target)!r} ({error}). Use georeference=False "
            "for results in pixels, or write them in the image's own CRS, for example as GeoParquet"
        ) from None


def _name(crs: str) -> str:
    return str(crs_named(crs).name)


def _reprojected(xy: Points, transformer: pyproj.Transformer | None) -> Points:
    if transformer is None:
        return xy
    if len(xy) == 1:  # as in `ground.geodesics`
        return np.array([transformer.transform(*xy[0].tolist())])
    return np.stack(transformer.transform(*xy.T), axis=1)
