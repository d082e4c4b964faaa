"""Distances on the ground."""

from __future__ import annotations

import numpy as np
import pyproj
from numpy.typing import NDArray

from geotile.errors import GeoreferenceError
from geotile.geometry.georeference import Georeference
from geotile.geometry.grid_mapping import crs_named
from geotile.geometry.placement import Points


def geodesics(ellipsoid: pyproj.Geod, one: Points, other: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the azimuths in degrees and the lengths in metres of the shortest lines between points.

    Parameters
    ----------
    ellipsoid : pyproj.Geod
    one, other : numpy.ndarray
        (n, 2) float64, longitude and latitude.

    Returns
    -------
    tuple of numpy.ndarray
        (n,) and (n,) float64; NaN where a point is not finite.
    """
    # Lists: pyproj 3.7 takes an array of one value for a number, which numpy before 2.4 warns about.
    azimuths, _, metres = ellipsoid.inv(*one.T.tolist(), *other.T.tolist())
    return np.array(azimuths, np.float64), np.array(metres, np.float64)


def pixel_size_m(georeference: Georeference, shape_yx: tuple[int, int]) -> tuple[float, float]:
    """Return the ground size of the middle pixel in metres, down and across.

    The size is measured along the ellipsoid, or in the units of a projected CRS if the two agree to 1 %.

    Raises
    ------
    GeoreferenceError
        If the image has no georeference, or its middle has no position on Earth.
    """
    if georeference.placement is None or georeference.crs is None:
        raise GeoreferenceError(
            "resolution is in metres, so it needs an image with a georeference, and this image has none. Leave "
            "resolution out"
        )
    y, x = shape_yx[0] / 2, shape_yx[1] / 2
    world = georeference.placement.to_world(np.array([[x, y], [x, y + 1], [x + 1, y]]))
    crs = crs_named(georeference.crs)
    if crs.geodetic_crs is None:
        raise GeoreferenceError(
            f"resolution needs an image on Earth, and the CRS {crs.name!r} has no geodetic coordinates. Leave "
            "resolution out"
        )
    lon, lat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(*world.T)
    geod = crs.get_geod()
    if geod is None or not np.isfinite([lon, lat]).all():
        raise GeoreferenceError(
            "the middle of the image has no position on Earth, so its resolution is unknown. Leave resolution out"
        )
    lonlat = np.stack([lon, lat], axis=1)
    _, metres = geodesics(geod, lonlat[[0, 0]], lonlat[1:])
    if crs.is_projected:  # within its zone a map's metre differs by up to 0.04 %: return 0.5, not 0.5002
        on_map = np.hypot(*(world[1:] - world[0]).T) * crs.axis_info[0].unit_conversion_factor
        if np.allclose(on_map, metres, rtol=0.01):
            metres = on_map
    return float(metres[0]), float(metres[1])
