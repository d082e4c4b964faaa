"""How a file's pixels lie on Earth: an affine transform, ground control points, rational polynomials.

Pixels count from the outer corner of the upper-left pixel, (x, y); the world is (x, y) of a CRS,
longitude before latitude. All of it is vectorised; ground control points and RPCs are GDAL's own
transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

from geotile.errors import GeoreferenceError
from geotile.storage.location import Location

Points = NDArray[np.float64]
RPC_COEFFICIENTS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")


@runtime_checkable
class Placement(Protocol):
    """Where pixels lie, and back. Pickles."""

    def to_world(self, xy: Points) -> Points:
        """Return the world coordinates of pixels, (n, 2) float64; NaN where there are none."""

    def to_pixels(self, xy: Points) -> Points:
        """Return the pixels of world coordinates, (n, 2) float64; NaN where there are none."""

    def seen_by(self, pixels: Affine) -> Placement:
        """Return the placement of an image whose pixels `pixels` carries into this one's."""


@dataclass(frozen=True)
class AffinePlacement:
    """An affine transform: north-up, rotated or sheared."""

    transform: Affine

    def to_world(self, xy: Points) -> Points:
        """Return world coordinates, (n, 2) float64."""
        return carried(self.transform, xy)

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        return carried(~self.transform, xy)

    def seen_by(self, pixels: Affine) -> AffinePlacement:
        """Return the placement of a part of the image, or of one resampled."""
        return AffinePlacement(self.transform @ pixels)


@dataclass(frozen=True)
class GcpPlacement:
    """Ground control points, with the polynomial that GDAL fits to them (order 1, or 2 from 6 points on)."""

    points: tuple[tuple[float, float, float, float, float], ...]
    """Column, row, x, y, z of each."""

    def to_world(self, xy: Points) -> Points:
        """Return world coordinates, (n, 2) float64."""
        with self._transformer() as fit:
            return _finite(fit.xy(xy[:, 1], xy[:, 0], offset="ul"), len(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        with self._transformer() as fit:
            rows, columns = fit.rowcol(xy[:, 0], xy[:, 1], op=np.asarray)
            return _finite((columns, rows), len(xy))

    def seen_by(self, pixels: Affine) -> GcpPlacement:
        """Return the placement of a part of the image, or of one resampled."""
        back = ~pixels
        return GcpPlacement(tuple((*(back @ (column, row)), *world) for column, row, *world in self.points))

    @property
    def gcps(self) -> list[GroundControlPoint]:
        """The points as rasterio takes them."""
        return [GroundControlPoint(row=row, col=column, x=x, y=y, z=z) for column, row, x, y, z in self.points]

    def _transformer(self) -> Any:
        try:
            return GCPTransformer(self.gcps)
        except (RasterioError, CPLE_BaseError, ValueError) as error:
            raise GeoreferenceError(
                f"no polynomial fits the image's {len(self.points)} ground control points ({error}); open it with "
                "georeference=False for detections in pixels"
            ) from None


@dataclass(frozen=True)
class RpcPlacement:
    """Rational polynomials (RPC00B), at a constant height or over an elevation model.

    The world is longitude and latitude in WGS 84.
    """

    metadata: tuple[tuple[str, str], ...]
    """GDAL's RPC metadata."""
    height: float | None = None
    """Metres above the WGS 84 ellipsoid; None for the HEIGHT_OFF of the polynomials. With an elevation
    model: where that has no data."""
    dem: Location | None = None
    """Elevation model, metres."""

    def to_world(self, xy: Points) -> Points:
        """Return longitude and latitude, (n, 2) float64, degrees."""
        return self._run(lambda fit: fit.xy(xy[:, 1], xy[:, 0], offset="ul"), len(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        return self._run(lambda fit: fit.rowcol(xy[:, 0], xy[:, 1], op=np.asarray)[::-1], len(xy))

    def seen_by(self, pixels: Affine) -> RpcPlacement:
        """Return the placement of a part of the image, or of one resampled.

        RPCs count lines and samples from the centre of the first pixel, so half a pixel is added
        before and taken off after.
        """
        changed = dict(self.metadata)
        for axis, scale, start in (("LINE", pixels.e, pixels.f), ("SAMP", pixels.a, pixels.c)):
            offset = (float(changed[f"{axis}_OFF"]) + 0.5 - start) / scale - 0.5
            changed[f"{axis}_OFF"] = repr(offset)
            changed[f"{axis}_SCALE"] = repr(float(changed[f"{axis}_SCALE"]) / scale)
        return replace(self, metadata=tuple(changed.items()))

    @property
    def rpc(self) -> RPC:
        """The polynomials as rasterio takes them."""
        return RPC.from_gdal(dict(self.metadata))

    def _run(self, ask: Any, n: int) -> Points:
        height = float(dict(self.metadata)["HEIGHT_OFF"]) if self.height is None else self.height
        options: dict[str, Any] = {"RPC_HEIGHT": height}
        if self.dem is None:
            with RPCTransformer(self.rpc, **options) as fit:
                return _finite(ask(fit), n)
        options = {"RPC_DEM": self.dem.path, "RPC_DEM_MISSING_VALUE": height, "RPC_DEMINTERPOLATION": "bilinear"}
        try:
            with self.dem.environment(), RPCTransformer(self.rpc, **options) as fit:
                return _finite(ask(fit), n)
        except (RasterioError, CPLE_BaseError, ValueError) as error:
            raise GeoreferenceError(f"dem={self.dem.display_name} cannot be used: {error}") from None


def carried(transform: Affine, xy: Points) -> Points:
    """Apply a transform to points, (n, 2) float64."""
    a, b, c, d, e, f = transform[:6]
    x, y = xy.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _finite(columns: Any, n: int) -> Points:
    """Return two columns as (n, 2), GDAL's infinities as NaN."""
    found = np.stack([np.asarray(each, np.float64).reshape(n) for each in columns], axis=1)
    found[~np.isfinite(found).all(axis=1)] = np.nan
    return found
