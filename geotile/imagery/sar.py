"""Complex (SAR) images: magnitudes for the model; where SICDs and SIDDs lie (extra ``geotile[sar]``).

A SICD (NGA.STND.0024) is a NITF whose XML describes the collection. Its pixels come as two bands, I
and Q. Ground positions follow the SICD image projections document (NGA.STND.0024-3), by sarkit: the
range / range-rate contour of a pixel meets a surface of constant height above the ellipsoid. A SIDD's
detected pixels lie on a grid that its XML defines.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geotile.errors import ArgumentError, GeoreferenceError, ImageOpenError
from geotile.geometry.placement import Points, transform_points
from geotile.imagery.header import Place
from geotile.imagery.source import Source
from geotile.options import SarRemap

_HEIGHT_STEPS = 6


@dataclass(frozen=True)
class Magnitude:
    """The magnitude of complex pixels, or its square root (the fourth root of the power)."""

    remap: SarRemap

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (1, y, x) float32 of two bands I and Q, or of each complex band."""
        size = np.abs(values) if values.dtype.kind == "c" else np.hypot(values[:1], values[1:2])
        return np.asarray(size if self.remap == "amplitude" else np.sqrt(size), np.float32)

    def dtype(self, dtype: str) -> str:
        """Return "float32"."""
        return "float32"

    def for_bands(self, indices: tuple[int, ...]) -> None:
        """Return None: the magnitude of I and Q has one band."""


def remapped(source: Source, sar: SarRemap | None, place: Place) -> Source:
    """Return a source whose pixels a model can take.

    Raises
    ------
    ImageOpenError
        If the pixels are complex and nothing says what to make of them.
    ArgumentError
        If `sar` is unknown, or the pixels are neither complex nor I and Q.
    """
    complex_pixels = "complex" in source.file_dtype or "cint" in source.file_dtype.lower()
    if sar is None:
        if complex_pixels:
            raise ImageOpenError(
                f"{source.location.display_name} holds complex numbers ({source.file_dtype}); "
                "say sar='amplitude' or sar='quarter_power'"
            )
        return source
    if sar not in get_args(SarRemap):
        raise ArgumentError(f"sar={sar!r} is unknown; choose one of {get_args(SarRemap)}")
    if place.sar_xml is not None and b"AMP8I_PHS8I" in place.sar_xml:
        raise ArgumentError("this SICD stores AMP8I_PHS8I (amplitudes through a table, and phases), not I and Q")
    if complex_pixels:
        dtype = "complex128" if source.file_dtype in ("complex128", "complex_int32") else "complex64"
        return replace(source, file_dtype=dtype).then(Magnitude(sar))
    if len(source.bands) != 2:
        raise ArgumentError(
            f"sar={sar!r} needs complex pixels, or two bands I and Q; {source.location.display_name} has "
            f"{len(source.bands)} of {source.file_dtype}"
        )
    return replace(source, shape=(1, *source.shape[1:])).then(Magnitude(sar))


@dataclass(frozen=True)
class SicdPlacement:
    """A SICD's projection to a surface of constant height; the world is longitude and latitude."""

    xml: bytes = field(repr=False)
    height: float | None = None
    """Metres above the WGS 84 ellipsoid; None for that of the scene centre point."""
    pixels: Affine = field(default_factory=Affine.identity)
    """From this image's pixels to the file's."""

    def to_world(self, xy: Points) -> Points:
        """Return longitude and latitude, (n, 2) float64, degrees."""
        import sarkit.sicd.projection as projection

        sicd = _sicd(self.xml)
        sets = projection.compute_projection_sets(sicd.params, sicd.grid(transform_points(self.pixels, xy)))
        height = np.full(len(xy), sicd.height if self.height is None else self.height)
        ground, _, _ = projection.r_rdot_to_constant_hae_surface(sicd.params.LOOK, sicd.params.SCP, sets, height)
        return _lonlat(ground)

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64."""
        import sarkit.sicd.projection as projection

        sicd = _sicd(self.xml)
        ground = _ecef(xy, sicd.height if self.height is None else self.height)
        grid, _, _ = projection.scene_to_image(sicd.params, ground)
        return transform_points(~self.pixels, sicd.pixels(np.asarray(grid)))

    def for_pixels(self, pixel_transform: Affine) -> SicdPlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one."""
        return replace(self, pixels=self.pixels @ pixel_transform)


@dataclass(frozen=True)
class SiddPlacement:
    """A SIDD's pixel grid (NGA.STND.0025); the world is longitude and latitude."""

    xml: bytes = field(repr=False)
    pixels: Affine = field(default_factory=Affine.identity)
    """From this image's pixels to the file's."""

    def to_world(self, xy: Points) -> Points:
        """Return longitude and latitude, (n, 2) float64, degrees."""
        return _lonlat(self._ground(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return pixels, (n, 2) float64: of the point of the grid's own surface at that longitude and latitude."""
        import sarkit.sidd

        tree, height = _tree(self.xml), np.zeros(len(xy))
        found = np.zeros((len(xy), 2))
        for _ in range(_HEIGHT_STEPS):  # the surface's height is not known before the pixel is
            rows_columns = sarkit.sidd.ecef_to_pixel(tree, _ecef(xy, height))
            found = transform_points(~self.pixels, rows_columns[:, ::-1] + 0.5)
            height = _geodetic(self._ground(found))[:, 2]
        return found

    def for_pixels(self, pixel_transform: Affine) -> SiddPlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one."""
        return replace(self, pixels=self.pixels @ pixel_transform)

    def _ground(self, xy: Points) -> Points:
        import sarkit.sidd

        return np.asarray(sarkit.sidd.pixel_to_ecef(_tree(self.xml), transform_points(self.pixels, xy)[:, ::-1] - 0.5))


def sar_placement(place: Place, height: float | None) -> SicdPlacement | SiddPlacement | None:
    """Return the placement that a SICD's or SIDD's XML gives; None for any other file.

    Raises
    ------
    ArgumentError
        If sarkit is not installed, or `height` is given for a SIDD.
    GeoreferenceError
        If it is not the first image segment: the XML counts pixels over all of them.
    """
    if place.sar_xml is None:
        return None
    if place.segment > 0:
        raise GeoreferenceError(
            f"image segment {place.segment} of a SAR product of several is not placed yet (the first is); open it with "
            "georeference=False for detections in pixels"
        )
    try:
        import sarkit.sicd  # noqa: F401 - asked whether it is there
    except ImportError:
        raise ArgumentError(
            "a SICD or SIDD is placed by sarkit: pip install 'geotile[sar]', or open it with georeference=False"
        ) from None
    if _tree(place.sar_xml).getroot().tag.endswith("}SICD"):
        return SicdPlacement(place.sar_xml, height)
    if height is not None:
        raise ArgumentError("height= does not apply to a SIDD, whose grid has a surface of its own; leave it out")
    return SiddPlacement(place.sar_xml)


class _Sicd:
    """What the projection asks of a SICD's XML."""

    def __init__(self, xml: bytes) -> None:
        import sarkit.sicd
        import sarkit.sicd.projection as projection

        tree = _tree(xml)
        read = sarkit.sicd.XmlHelper(tree).load
        self.params = projection.MetadataParams.from_xml(tree)
        self.height = float(read("{*}GeoData/{*}SCP/{*}LLH")[2])
        self.first: Points = np.array([read("{*}ImageData/{*}FirstRow"), read("{*}ImageData/{*}FirstCol")], float)
        self.centre: Points = np.asarray(read("{*}ImageData/{*}SCPPixel"), float)
        self.spacing: Points = np.array([read("{*}Grid/{*}Row/{*}SS"), read("{*}Grid/{*}Col/{*}SS")], float)

    def grid(self, xy: Points) -> Points:
        """Return pixels (x, y) as (xrow, ycol) in metres from the scene centre point."""
        return (xy[:, ::-1] - 0.5 + self.first - self.centre) * self.spacing

    def pixels(self, grid: Points) -> Points:
        """Return (xrow, ycol) as pixels (x, y)."""
        return (grid / self.spacing + self.centre - self.first + 0.5)[:, ::-1]


@lru_cache(maxsize=8)
def _sicd(xml: bytes) -> _Sicd:
    return _Sicd(xml)


@lru_cache(maxsize=8)
def _tree(xml: bytes) -> Any:
    import io

    import lxml.etree

    safe = lxml.etree.XMLParser(resolve_entities=False, no_network=True)
    return lxml.etree.parse(io.BytesIO(xml), safe)


def _ecef(lonlat: Points, height: float | Points) -> Points:
    import sarkit.wgs84

    heights = np.broadcast_to(height, (len(lonlat),))
    return np.asarray(sarkit.wgs84.geodetic_to_cartesian(np.stack([lonlat[:, 1], lonlat[:, 0], heights], axis=1)))


def _geodetic(ecef: Any) -> Points:
    import sarkit.wgs84

    return np.asarray(sarkit.wgs84.cartesian_to_geodetic(np.asarray(ecef)))


def _lonlat(ecef: Any) -> Points:
    lonlat: Points = _geodetic(ecef)[:, 1::-1]
    return lonlat
