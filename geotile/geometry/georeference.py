"""From image pixels to a CRS and back, vectorised over all vertices; valid at the antimeridian and the poles."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import antimeridian
import numpy as np
import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geotile.errors import ArgumentError, GeoreferenceError
from geotile.geometry.placement import AffinePlacement, GcpPlacement, Placement, Points

WGS84 = "OGC:CRS84"
PLACEMENT = "geotile_placement"  # under this name a Placement rides in the encoding of spatial_ref
SCALE = "geotile_scale_yx"  # and under this one, in its attributes, how much coarser than its file an image is


@dataclass(frozen=True)
class Georeference:
    """Where an image's pixels lie; nowhere, where it has no place."""

    placement: Placement | None
    crs: str | None
    """WKT of the coordinate reference system of the placement."""

    @property
    def transform(self) -> Affine | None:
        """The affine transform, where the image has one."""
        return self.placement.transform if isinstance(self.placement, AffinePlacement) else None

    def to_world(self, shapes: NDArray[np.object_], crs: str | None) -> NDArray[np.object_]:
        """Place geometries.

        Parameters
        ----------
        shapes : numpy.ndarray
            (n,) shapely geometries in image pixels, from the outer corner of the first pixel.
        crs : str or None
            WKT of the wanted CRS; None for the image's own.

        Returns
        -------
        numpy.ndarray
            (n,) shapely geometries; in pixels where the image has no place; None where a pixel
            lies nowhere on Earth. In a geographic CRS longitudes lie in -180 to 180, and what
            crosses the antimeridian or a pole is cut there (RFC 7946, 3.1.9).
        """
        if self.placement is None or not len(shapes):
            return shapes
        wanted = crs or self.crs
        starts = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(shapes))[:-1]])
        own = self.placement.to_world(shapely.get_coordinates(shapes))
        steps = _steps(self.crs, wanted)
        world = own if steps is None else np.stack(steps.transform(*own.T), axis=1)
        lost = np.asarray(~np.isfinite(world).all(axis=1))
        placed: NDArray[np.object_] = shapely.set_coordinates(shapes.copy(), np.where(lost[:, None], 0.0, world))
        placed[np.logical_or.reduceat(lost, starts)] = None
        if wanted is None or not _crs(wanted).is_geographic:
            return placed
        crossing = np.flatnonzero(_crosses(placed))
        if len(crossing):  # which side of a ring holds the pole is told by its winding, seen from above
            seen = shapely.orient_polygons(shapely.set_coordinates(shapes.copy(), np.nan_to_num(own))[crossing])
            flat = seen if steps is None else shapely.transform(seen, steps.transform, interleaved=False)
            placed[crossing] = [_wrapped(shape) for shape in flat]
        return placed

    def points_to_world(self, xy: Points, crs: str | None) -> Points:
        """Place points of an image that has a place, (n, 2) float64; not finite where they lie nowhere."""
        assert self.placement is not None  # the caller has looked
        world = self.placement.to_world(xy)
        steps = _steps(self.crs, crs)
        return world if steps is None else np.stack(steps.transform(*world.T), axis=1)

    def to_pixels(self, shape: Any, crs: str) -> Any:
        """Return a geometry of a CRS in image pixels, its edges densified to follow the curves.

        Raises
        ------
        GeoreferenceError
            If the image has no place, or the geometry lies where it cannot be.
        """
        if self.placement is None or self.crs is None:
            raise GeoreferenceError("the image has no place on Earth; cut it instead: open_image(uri)[:, y0:y1, x0:x1]")
        x0, y0, x1, y1 = shape.bounds
        dense = shapely.segmentize(shape, max(x1 - x0, y1 - y0, 1e-9) / 64)
        steps, placement = _steps(crs, self.crs), self.placement

        def place(xy: Points) -> Points:
            world = xy if steps is None else np.stack(steps.transform(*xy.T), axis=1)
            pixels = placement.to_pixels(world)
            if not np.isfinite(pixels).all():
                raise GeoreferenceError(f"the area {shape.bounds} (xmin, ymin, xmax, ymax) cannot be seen in the image")
            return pixels

        return shapely.transform(dense, place)

    def seen_by(self, pixels: Affine) -> Georeference:
        """Return the georeference of an image whose pixels `pixels` carries into this one's."""
        if self.placement is None or pixels.is_identity:
            return self
        return Georeference(self.placement.seen_by(pixels), self.crs)


NOWHERE = Georeference(None, None)


def georeference_of(image: xr.DataArray) -> Georeference:
    """Read an image's georeference.

    Raises
    ------
    GeoreferenceError
        If it says that it is placed by rational polynomials and no longer carries them.
    """
    spatial_ref = image.coords.get("spatial_ref")
    notes = {} if spatial_ref is None else spatial_ref.attrs
    pixels = _pixel_affine(image) if _counts_pixels(image) else Affine.identity()
    crs = image.rio.crs
    wkt = None if crs is None else str(crs.to_wkt())
    if spatial_ref is not None and PLACEMENT in spatial_ref.encoding:
        return Georeference(spatial_ref.encoding[PLACEMENT], wkt).seen_by(pixels)
    if notes.get("rpc"):
        raise GeoreferenceError("the image has lost its rational polynomials on the way; open it again with open_image")
    if notes.get("gcps"):
        points = tuple((p.col, p.row, p.x, p.y, p.z or 0.0) for p in image.rio.get_gcps())
        return Georeference(GcpPlacement(points), wkt).seen_by(pixels)
    transform = _transform(image)
    if _counts_pixels(image):
        stated = notes.get("GeoTransform")
        if stated is None:
            return NOWHERE
        transform = Affine.from_gdal(*map(float, str(stated).split())) @ pixels
    elif transform.is_identity:
        return NOWHERE
    return Georeference(AffinePlacement(transform), wkt)


def scale_yx(image: xr.DataArray) -> tuple[float, float]:
    """Return how many pixels of the full-resolution image a pixel covers, down and across."""
    spatial_ref = image.coords.get("spatial_ref")
    said = None if spatial_ref is None else spatial_ref.attrs.get(SCALE)
    if said is None:
        return 1.0, 1.0
    y, x = map(float, str(said).split())
    return y, x


def wkt_of(crs: Any) -> str:
    """Return the WKT of anything that names a CRS.

    Raises
    ------
    ArgumentError
        If pyproj does not know it.
    """
    try:
        return str(pyproj.CRS.from_user_input(crs).to_wkt())
    except pyproj.exceptions.CRSError as error:
        raise ArgumentError(f"crs={crs!r} is not a CRS pyproj knows; give e.g. 'EPSG:4326' ({error})") from None


def pixel_size_m(georeference: Georeference, shape_yx: tuple[int, int]) -> tuple[float, float]:
    """Return the ground size of the middle pixel in metres, down and across.

    Along the ellipsoid; in the units of a projected CRS where these agree to 1 %.

    Raises
    ------
    GeoreferenceError
        If the image has no place on Earth.
    """
    if georeference.placement is None or georeference.crs is None:
        raise GeoreferenceError("resolution= is in metres, but the image has no place on Earth")
    y, x = shape_yx[0] / 2, shape_yx[1] / 2
    world = georeference.placement.to_world(np.array([[x, y], [x, y + 1], [x + 1, y]]))
    crs = _crs(georeference.crs)
    lon, lat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(*world.T)
    geod = crs.get_geod()
    if geod is None or not np.isfinite([lon, lat]).all():
        raise GeoreferenceError("the middle of the image lies nowhere on Earth, so it has no ground resolution")
    _, _, metres = geod.inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    if crs.is_projected:  # within its zone a map's metre is a metre but for 0.04 %: say 0.5, not 0.5002
        on_map = np.hypot(*(world[1:] - world[0]).T) * crs.axis_info[0].unit_conversion_factor
        if np.allclose(on_map, metres, rtol=0.01):
            metres = on_map
    return float(metres[0]), float(metres[1])


def _crosses(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Tell which geographic geometries leave -180 to 180 degrees, or jump across the antimeridian."""
    west, _, east, _ = shapely.bounds(shapes).reshape(-1, 4).T
    return np.asarray((east - west > 180) | (west < -180) | (east > 180))


def _wrapped(shape: Any) -> Any:
    """Cut a geographic geometry at the antimeridian, and wrap one that holds a pole around it."""
    if shape.geom_type == "GeometryCollection":
        return shapely.GeometryCollection([_wrapped(part) for part in shape.geoms])
    if "Polygon" not in shape.geom_type:
        shape = shapely.transform(shape, lambda xy: np.stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]], axis=1))
    if "Point" in shape.geom_type:
        return shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every ring that it winds the other way
        fixed = shapely.geometry.shape(antimeridian.fix_shape(shapely.geometry.mapping(shape)))
    return fixed if fixed.is_valid else shapely.make_valid(fixed)


def _crs(crs: str) -> pyproj.CRS:
    return pyproj.CRS.from_user_input(crs)


def _steps(source: str | None, target: str | None) -> pyproj.Transformer | None:
    if source is None or target is None or source == target:
        return None
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _transform(image: xr.DataArray) -> Affine:
    """Return the transform: the file's own figures, unless the array was cut or thinned since."""
    stated: Affine = image.rio.transform()
    if min(image.sizes["y"], image.sizes["x"]) < 2:
        return stated
    measured: Affine = image.rio.transform(recalc=stated.is_rectilinear)
    pixel = max(abs(stated.a), abs(stated.e))
    drift = np.abs(np.subtract(measured[:6], stated[:6])) * [*image.shape[:-3:-1], 1, *image.shape[:-3:-1], 1]
    return stated if drift.max() < 1e-3 * pixel else measured


def _counts_pixels(image: xr.DataArray) -> bool:
    return "x" in image.coords and image.coords["x"].attrs.get("units") == "pixel"


def _pixel_affine(image: xr.DataArray) -> Affine:
    """Return the transform from this image's pixels to those of the file it was sliced from."""
    (y0, dy), (x0, dx) = (_line(np.asarray(image.coords[d])) for d in "yx")
    return Affine(dx, 0, x0, 0, dy, y0)


def _line(centres: NDArray[np.float64]) -> tuple[float, float]:
    step = float(centres[1] - centres[0]) if len(centres) > 1 else 1.0
    return float(centres[0]) - step / 2, step
