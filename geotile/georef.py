"""Where pixels lie on Earth: affine transforms, vectorised over all vertices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geotile.errors import ArgumentError, GeoreferenceError


@dataclass(frozen=True)
class Georeference:
    """An affine transform from pixels to a CRS; neither, where the image has no place."""

    transform: Affine | None
    crs: str | None
    """WKT of the coordinate reference system."""

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
            (n,) shapely geometries; in pixels where the image has no place.
        """
        if self.transform is None or not len(shapes):
            return shapes
        steps = None
        if crs is not None and crs != self.crs:
            steps = pyproj.Transformer.from_crs(self.crs, crs, always_xy=True)
        a, b, c, d, e, f = self.transform[:6]

        def place(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = xy.T
            world = np.array([a * x + b * y + c, d * x + e * y + f])
            return (world if steps is None else np.array(steps.transform(*world))).T

        placed: NDArray[np.object_] = shapely.transform(shapes, place)
        return placed


NOWHERE = Georeference(None, None)


def georeference_of(image: xr.DataArray) -> Georeference:
    """Read an image's georeference.

    Raises
    ------
    GeoreferenceError
        If it is placed by ground control points or rational polynomials.
    """
    spatial_ref = image.coords.get("spatial_ref")
    notes = {} if spatial_ref is None else spatial_ref.attrs
    for kind, key in (("ground control points", "gcps"), ("rational polynomials (RPC)", "rpc")):
        if notes.get(key):
            raise GeoreferenceError(
                f"the image is placed by {kind}, which geotile does not apply yet; open it with "
                "open_image(uri, georeference=False) for detections in pixels"
            )
    transform = _transform(image)
    if _counts_pixels(image):
        stated = notes.get("GeoTransform")
        if stated is None:
            return NOWHERE
        transform = Affine.from_gdal(*map(float, str(stated).split())) @ _pixel_affine(image)
    elif transform.is_identity:
        return NOWHERE
    crs = image.rio.crs
    return Georeference(transform, None if crs is None else str(crs.to_wkt()))


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
