"""Complex (SAR) images: magnitudes for the model, and the georeference of SICDs and SIDDs (extra ``sar``).

A SICD (NGA.STND.0024) is a NITF whose XML describes the collection. GDAL presents its pixels as two bands, I and Q.
Ground positions follow the SICD image projections document (NGA.STND.0024-3), as sarkit implements it: the range /
range-rate contour of a pixel intersects a surface of constant height above the ellipsoid. The detected pixels of a
SIDD lie on a grid that its XML defines.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geotile.core.choices import SarRemap
from geotile.errors import ArgumentError, GeoreferenceError, ImageOpenError
from geotile.geometry.placement import Points, transform_points
from geotile.imagery.header import Place
from geotile.imagery.source import Source

_HEIGHT_ITERATIONS = 6


@dataclass(frozen=True)
class Magnitude:
    """Magnitude of complex pixels, or its square root (the fourth root of the power)."""

    remap: SarRemap

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return float32 magnitudes: (1, y, x) of two bands I and Q, or (band, y, x) of complex bands."""
        size = np.abs(values) if values.dtype.kind == "c" else np.hypot(values[:1], values[1:2])
        return np.asarray(size if self.remap == "amplitude" else np.sqrt(size), np.float32)

    def dtype(self, dtype: str) -> str:
        """Return "float32"."""
        return "float32"

    def for_bands(self, indices: tuple[int, ...]) -> None:
        """Return None, because the magnitude needs both bands, I and Q."""


def remapped(source: Source, sar: SarRemap | None, place: Place) -> Source:
    """Return a source whose pixels are real numbers.

    Raises
    ------
    ImageOpenError
        If the pixels are complex and `sar` is not given.
    ArgumentError
        If `sar` is unknown, or the pixels are neither complex nor two bands I and Q.
    """
    complex_pixels = "complex" in source.file_dtype or "cint" in source.file_dtype.lower()
    if sar is None:
        if complex_pixels:
            raise ImageOpenError(
                f"{source.location.display_name} has complex pixels ({source.file_dtype}), which models do not accept. "
                "Convert them with sar='amplitude' or sar='quarter_power'"
            )
        return source
    if sar not in get_args(SarRemap):
        raise ArgumentError(f"sar must be one of {', '.join(map(repr, get_args(SarRemap)))}; got {sar!r}")
    if place.sar_xml is not None and b"AMP8I_PHS8I" in place.sar_xml:
        raise ArgumentError(
            f"sar={sar!r} needs pixels stored as I and Q; this SICD has the pixel type AMP8I_PHS8I (amplitude through "
            "a table, and phase), which is not supported. Leave sar out to read them as two bands"
        )
    if complex_pixels:
        dtype = "complex128" if source.file_dtype in ("complex128", "complex_int32") else "complex64"
        return replace(source, file_dtype=dtype).with_step(Magnitude(sar))
    if len(source.bands) != 2:
        raise ArgumentError(
            f"sar={sar!r} needs complex pixels, or two bands I and Q; {source.location.display_name} has "
            f"{len(source.bands)} bands of {source.file_dtype}. Choose two bands with bands=, or leave sar out"
        )
    return replace(source, shape=(1, *source.shape[1:])).with_step(Magnitude(sar))


@dataclass(frozen=True)
class SicdPlacement:
    """Projection of a SICD to a surface of constant height; world coordinates are longitude and latitude."""

    xml: bytes = field(repr=False)
    height: float | None = None
    """Height above the WGS 84 ellipsoid in metres; None for the height of the scene centre point."""
    pixels: Affine = field(default_factory=Affine.identity)
    """Transform from pixels of this image to pixels of the file."""

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
    """Pixel grid of a SIDD (NGA.STND.0025); world coordinates are longitude and latitude."""

    xml: bytes = field(repr=False)
    pixels: Affine = field(default_factory=Affine.identity)
    """Transform from pixels of this image to pixels of the file."""

    def to_world(self, xy: Points) -> Points:
        """Return longitude and latitude, (n, 2) float64, degrees."""
        return _lonlat(self._ground(xy))

    def to_pixels(self, xy: Points) -> Points:
        """Return the pixels of points on the surface of the grid, given by longitude and latitude, (n, 2) float64."""
        import sarkit.sidd

        tree, height = _tree(self.xml), np.zeros(len(xy))
        pixels = np.zeros((len(xy), 2))
        for _ in range(_HEIGHT_ITERATIONS):  # the height of the surface depends on the pixel
            rows_columns = sarkit.sidd.ecef_to_pixel(tree, _ecef(xy, height))
            pixels = transform_points(~self.pixels, rows_columns[:, ::-1] + 0.5)
            height = _geodetic(self._ground(pixels))[:, 2]
        return pixels

    def for_pixels(self, pixel_transform: Affine) -> SiddPlacement:
        """Return the placement of an image whose pixels `pixel_transform` maps to the pixels of this one."""
        return replace(self, pixels=self.pixels @ pixel_transform)

    def _ground(self, xy: Points) -> Points:
        import sarkit.sidd

        return np.asarray(sarkit.sidd.pixel_to_ecef(_tree(self.xml), transform_points(self.pixels, xy)[:, ::-1] - 0.5))


def sar_placement(place: Place, height: float | None) -> SicdPlacement | SiddPlacement | None:
    """Return the placement of a SICD or SIDD from its XML, None for any other file.

    Raises
    ------
    ArgumentError
        If sarkit is not installed, or `height` is given for a SIDD.
    GeoreferenceError
        If the image is not the first image segment: the XML numbers pixels over all segments.
    """
    if place.sar_xml is None:
        return None
    if place.segment > 0:
        raise GeoreferenceError(
            f"image segment {place.segment} of a SAR product cannot be georeferenced; only the first segment is "
            "supported. Open it with georeference=False for detections in pixels"
        )
    try:
        import sarkit.sicd  # noqa: F401 - fails if sarkit is not installed
    except ImportError:
        raise ArgumentError(
            "the georeference of a SICD or SIDD needs sarkit, which is not installed. Install it with pip install "
            "sarkit, or open the image with georeference=False"
        ) from None
    if _tree(place.sar_xml).getroot().tag.endswith("}SICD"):
        return SicdPlacement(place.sar_xml, height)
    if height is not None:
        raise ArgumentError("height does not apply to a SIDD, whose grid defines its own surface; leave it out")
    return SiddPlacement(place.sar_xml)


class _Sicd:
    """Parameters of the projection from the XML of a SICD."""

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
