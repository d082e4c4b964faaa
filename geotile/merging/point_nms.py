"""Suppression by distance, for detections that are points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyproj
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_positive
from geotile.core.keywords import known_keywords
from geotile.errors import ArgumentError
from geotile.geometry.georeference import Georeference
from geotile.geometry.ground import geodesics
from geotile.merging.merge import Merge
from geotile.merging.pool import Pool, Rows
from geotile.public import public

Unit = Literal["px", "m"]
_SAMPLES = 33  # positions along each axis at which the size of a pixel is measured
_LARGEST_RATIO = 20.0  # of the sizes of two pixels of an image whose distances pixels can bound
_SMALLER = 0.9  # share of the smallest measured pixel that a pixel between them may have
_WGS84 = pyproj.Geod(ellps="WGS84")


@public
@known_keywords()
@dataclass(frozen=True)
class PointNms(Merge):
    """Suppression by distance: of points closer than a distance, the one of the highest score stays.

    Points are the centres of the boxes; a detection that is a point is its own centre.

    Parameters
    ----------
    distance : float
        Distance below which two points are one, greater than 0.
    unit : {"px", "m"}
        Pixels of the image as it is read, or metres on the ground, along the geodesic of WGS 84.
    class_agnostic : bool
        Whether points of different labels suppress each other.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used; in a run, if the unit is "m" and the image has no georeference.

    Examples
    --------
    >>> PointNms(12, unit="m")
    PointNms(distance=12, unit='m', class_agnostic=False)
    """

    drops = True
    by_area = False

    distance: float
    unit: Unit = "px"
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.unit, str) or self.unit not in get_args(Unit):
            raise ArgumentError(f"unit must be 'px' or 'm'; got {self.unit!r}")
        check_positive(self.distance, "distance", "pixels" if self.unit == "px" else "metres")
        check_bool(self.class_agnostic, "class_agnostic")

    @property
    def reach_px(self) -> float:  # type: ignore[override]  # of the value, not of the class
        """Maximum distance of two boxes that match, in pixels."""
        if self.unit == "m":
            raise ArgumentError("PointNms in metres needs an image with a georeference; call its for_image() first")
        return float(self.distance)

    def for_image(self, georeference: Georeference, shape_yx: tuple[int, int]) -> Merge:
        """Return the merge for an image: in metres, with the sizes of its pixels.

        Raises
        ------
        ArgumentError
            If the unit is "m" and the image has no georeference.
        """
        if self.unit == "px":
            return self
        if georeference.placement is None or georeference.crs is None:
            raise ArgumentError("PointNms(unit='m') needs an image with a georeference; give the distance in pixels")
        pixel_m = _smallest_pixel_m(georeference, shape_yx)
        return _GroundPointNms(self.distance, self.unit, self.class_agnostic, georeference, self.distance / pixel_m)

    def suppresses(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether the first, if it is kept, drops the second."""
        centres = (pool.boxes[:, :2] + pool.boxes[:, 2:]) / 2
        return np.asarray(self._distances(centres[higher], centres[lower]) < self.distance)

    def _distances(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.hypot(*(one - other).T))


@dataclass(frozen=True, repr=False)
class _GroundPointNms(PointNms):
    """`PointNms` in metres for one image."""

    georeference: Georeference | None = None
    reach: float = 0.0

    def __repr__(self) -> str:
        """Return the call that made it."""
        return repr(PointNms(self.distance, self.unit, self.class_agnostic))

    @property
    def reach_px(self) -> float:  # type: ignore[override]
        """Maximum distance of two boxes that match, in pixels."""
        return self.reach

    def _distances(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.georeference is not None
        return _geodesic_m(self.georeference, one, other)


def _geodesic_m(
    georeference: Georeference, one: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:  # fmt: skip
    """Return the distances on the ground of pairs of pixels in metres; infinite where one is not on Earth."""
    a, b = (georeference.points_to_world(xy, "EPSG:4326") for xy in (one, other))
    _, distances = geodesics(_WGS84, a, b)
    return np.nan_to_num(distances, nan=np.inf, posinf=np.inf)


def _smallest_pixel_m(georeference: Georeference, shape_yx: tuple[int, int]) -> float:
    """Return a size that no pixel of the image is smaller than, in metres.

    Raises
    ------
    ArgumentError
        If no pixel of the image is on Earth.
    """
    y, x = (np.linspace(0, length - 1, _SAMPLES) for length in shape_yx)
    xy = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    steps = [np.array(step) for step in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0])]
    sizes = np.stack([_geodesic_m(georeference, xy, xy + step) / np.hypot(*step) for step in steps])
    known = sizes[np.isfinite(sizes)]
    if not known.size:
        raise ArgumentError("PointNms(unit='m') needs an image on Earth; its pixels have no longitude and latitude")
    if known.min() * _LARGEST_RATIO < known.max() or _meets_itself(georeference, shape_yx, known.min()):
        raise ArgumentError(
            "PointNms(unit='m') needs an image whose pixels are of similar sizes and whose edges do not meet; one in "
            "longitude and latitude may not reach a pole or go round the Earth. Give the distance in pixels"
        )
    return float(known.min()) * _SMALLER


def _meets_itself(georeference: Georeference, shape_yx: tuple[int, int], pixel_m: float) -> bool:
    """Return whether opposite edges of the image lie far nearer to each other on the ground than in the image."""
    height, width = shape_yx
    down, across = np.linspace(0, height, _SAMPLES), np.linspace(0, width, _SAMPLES)
    edges = (
        (np.stack([0 * down, down], axis=1), np.stack([0 * down + width, down], axis=1), width),
        (np.stack([across, 0 * across], axis=1), np.stack([across, 0 * across + height], axis=1), height),
    )
    return any((_geodesic_m(georeference, one, other) < side * pixel_m / 4).any() for one, other, side in edges)
