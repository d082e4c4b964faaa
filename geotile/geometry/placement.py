"""How the pixels of a file map to the ground: an affine transform, ground control points or rational polynomials.

Pixels are (x, y), counted from the outer corner of the upper-left pixel. World coordinates are (x, y) in a CRS, with
longitude before latitude. All functions are vectorised. Ground control points and RPCs use GDAL's own transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from affine import Affine
from numpy.typing import NDArray

# Base class of the errors that GDAL's transformers raise. It has no public name in rasterio, and RasterioError is not
# one of its bases. tests/test_private_names.py fails when it goes.
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

from geotile.core.redact import redact
from geotile.errors import GeoreferenceError
from geotile.storage.location import Location

Points = NDArray[np.float64]
RPC_COEFFICIENTS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")


@runtime_checkable
class Placement(Protocol):
    """Mapping between the pixels of an image and world coordinates. Implementations must pickle."""

    def to_world(self, xy: Points) -> Points:
        """Return the world coordinates of pixels, (n, 2) float64; NaN where a pixel has none."""

    def to_pixels(self, xy: Points) -> Points:
        """Return the pixels of world coordinates, (n, 2) float64; NaN where a point has none."""

    def for_pixels(self, pixel_transform: Affine) -> Placement:
        """Return the placement of another image of the same ground, such as a crop or a resampled image.

        Parameters
        ----------
        pixel_transform : Affine
            Transform from the pixels of the other image to the pixels of this one.
        """


@dataclass(frozen=True)
class AffinePlacement:
    """An affine transform: north-up, rotated or sheared."""

    transform: Affine

    def to_world(self, xy: Points) -> Points:
        """Return world coordinates, (n, 2) float64."""
        return transform_points(self.transform, xy)

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        return transform_points(~self.transform, xy)

    def for_pixels(self, pixel_transform: Affine) -> AffinePlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one."""
        return AffinePlacement(self.transform @ pixel_transform)


@dataclass(frozen=True)
class GcpPlacement:
    """Ground control points, with the polynomial that GDAL fits to them (order 1, or 2 from 6 points on)."""

    points: tuple[tuple[float, float, float, float, float], ...]
    """Column, row, x, y and z of each point."""

    def to_world(self, xy: Points) -> Points:
        """Return world coordinates, (n, 2) float64."""
        with self._transformer() as transformer:
            return _stacked(transformer.xy(xy[:, 1], xy[:, 0], offset="ul"), len(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        with self._transformer() as transformer:
            rows, columns = transformer.rowcol(xy[:, 0], xy[:, 1], op=np.asarray)
            return _stacked((columns, rows), len(xy))

    def for_pixels(self, pixel_transform: Affine) -> GcpPlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one."""
        inverse = ~pixel_transform
        return GcpPlacement(tuple((*(inverse @ (column, row)), *world) for column, row, *world in self.points))

    @property
    def gcps(self) -> list[GroundControlPoint]:
        """The points as rasterio's objects."""
        return [GroundControlPoint(row=row, col=column, x=x, y=y, z=z) for column, row, x, y, z in self.points]

    def _transformer(self) -> Any:
        try:
            return GCPTransformer(self.gcps)
        except (RasterioError, CPLE_BaseError, ValueError) as error:
            raise GeoreferenceError(
                f"no polynomial fits the image's {len(self.points)} ground control points ({error}). Open the image "
                "with georeference=False to get detections in pixels"
            ) from None


@dataclass(frozen=True)
class RpcPlacement:
    """Rational polynomials (RPC00B), evaluated at a constant height or over an elevation model.

    World coordinates are longitude and latitude in WGS 84.
    """

    metadata: tuple[tuple[str, str], ...]
    """GDAL's RPC metadata."""
    height: float | None = None
    """Height in metres above the WGS 84 ellipsoid; None for the HEIGHT_OFF of the polynomials. With an elevation
    model: the height where the model has no data."""
    dem: Location | None = None
    """Location of an elevation model in metres."""

    def to_world(self, xy: Points) -> Points:
        """Return longitude and latitude, (n, 2) float64, degrees."""
        return self._with_transformer(lambda rpcs: rpcs.xy(xy[:, 1], xy[:, 0], offset="ul"), len(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        return self._with_transformer(lambda rpcs: rpcs.rowcol(xy[:, 0], xy[:, 1], op=np.asarray)[::-1], len(xy))

    def for_pixels(self, pixel_transform: Affine) -> RpcPlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one.

        RPCs count lines and samples from the centre of the first pixel, so half a pixel is added before the transform
        and subtracted after it.
        """
        shifted, t = dict(self.metadata), pixel_transform
        for axis, scale, start in (("LINE", t.e, t.f), ("SAMP", t.a, t.c)):
            offset = (float(shifted[f"{axis}_OFF"]) + 0.5 - start) / scale - 0.5
            shifted[f"{axis}_OFF"] = repr(offset)
            shifted[f"{axis}_SCALE"] = repr(float(shifted[f"{axis}_SCALE"]) / scale)
        return replace(self, metadata=tuple(shifted.items()))

    @property
    def rpc(self) -> RPC:
        """The polynomials as rasterio's object."""
        return RPC.from_gdal(dict(self.metadata))

    def _with_transformer(self, use: Callable[[RPCTransformer], Any], n: int) -> Points:
        """Return the two columns of n points that `use` computes with GDAL's transformer."""
        height = float(dict(self.metadata)["HEIGHT_OFF"]) if self.height is None else self.height
        options: dict[str, Any] = {"RPC_HEIGHT": height}
        if self.dem is None:
            with RPCTransformer(self.rpc, **options) as transformer:
                return _stacked(use(transformer), n)
        options = {"RPC_DEM": self.dem.path, "RPC_DEM_MISSING_VALUE": height, "RPC_DEMINTERPOLATION": "bilinear"}
        try:
            with self.dem.environment(), RPCTransformer(self.rpc, **options) as transformer:
                return _stacked(use(transformer), n)
        except (RasterioError, CPLE_BaseError, ValueError) as error:
            name = self.dem.display_name
            raise GeoreferenceError(
                f"dem must be an elevation model that GDAL can read; got {name} "
                f"({redact(str(error))}). Use another file"
            ) from None


def transform_points(transform: Affine, xy: Points) -> Points:
    """Apply an affine transform to points, (n, 2) float64."""
    a, b, c, d, e, f = transform[:6]
    x, y = xy.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _stacked(columns: Any, n: int) -> Points:
    """Return two columns as (n, 2) float64, with NaN in place of GDAL's infinities."""
    points = np.stack([np.asarray(column, np.float64).reshape(n) for column in columns], axis=1)
    points[~np.isfinite(points).all(axis=1)] = np.nan
    return points
