"""The coordinates of an array as a transform from its pixels, if they are those of a grid.

rioxarray looks at the first and the last coordinate alone. Here every coordinate must lie on the line between them, so
that a gap, a roll, padding or another order is refused, not averaged.
"""

from __future__ import annotations

import re

import numpy as np
import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geotile.errors import GeoreferenceError
from geotile.geometry.grid_mapping import grid_mapping_of

_TOLERANCE_PX = 0.1  # float32 degrees are rounded by up to 0.08 pixels of 1e-4 degrees
_SAME_UNIT = 1e-9
_EXACT_PX = 1e-3
_REMEDY = (
    "Select or sort pixels so that they are, interpolate them, or drop the coordinates for results in pixels: "
    "image.drop_vars(['y', 'x', 'spatial_ref'])"
)
_UNITS = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), ("metre", 1.0)),
    **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), ("metre", 1000.0)),
    **dict.fromkeys(("ft", "foot", "feet", "international_foot"), ("metre", 0.3048)),
    **dict.fromkeys(("us_survey_foot", "us-ft", "us survey foot"), ("metre", 1200 / 3937)),
    **dict.fromkeys(("degree", "degrees", "deg"), ("degree", 1.0)),
    **dict.fromkeys(
        (
            f"{word}{axis}"
            for word in ("degree", "degrees", "degree_", "degrees_")
            for axis in ("n", "north", "e", "east")
        ),
        ("degree", 1.0),
    ),
    **dict.fromkeys(("grad", "grads", "gon", "gons"), ("degree", 0.9)),
    **dict.fromkeys(("rad", "radian", "radians"), ("degree", float(np.rad2deg(1)))),
}  # kind and size of units that coordinates name, in metres or degrees


def counts_pixels(image: xr.DataArray) -> bool:
    """Return whether the coordinates of an image are pixel numbers of its file."""
    return "x" in image.coords and image.coords["x"].attrs.get("units") == "pixel"


def check_coordinates(image: xr.DataArray) -> None:
    """Check that the coordinates of y and x are evenly spaced, if the image has some.

    Raises
    ------
    GeoreferenceError
        If they are not: they have gaps or an order of their own, are padded, rolled, or no numbers.
    """
    for axis in ("y", "x"):
        if axis not in image.coords or image.coords[axis].ndim != 1:
            continue
        values = np.asarray(image.coords[axis])
        if values.dtype.kind not in "iuf":
            raise GeoreferenceError(f"the coordinates of {axis} must be numbers; got {values.dtype}. {_REMEDY}")
        if not np.isfinite(values).all():
            raise GeoreferenceError(f"the coordinates of {axis} must be finite; they hold NaN. {_REMEDY}")
        if len(values) < 2:
            continue
        line = np.linspace(float(values[0]), float(values[-1]), len(values))
        step = (line[-1] - line[0]) / (len(values) - 1)
        off = np.abs(values - line)
        if step == 0 or off.max() > _TOLERANCE_PX * abs(step):
            worst = int(off.argmax())
            raise GeoreferenceError(
                f"the coordinates of {axis} must be evenly spaced; {axis}[{worst}] is {values[worst]}, and "
                f"{line[worst]:.10g} would be even. {_REMEDY}"
            )


def transform_of(image: xr.DataArray, crs: pyproj.CRS | None) -> Affine:
    """Return the transform from an array's pixels to its CRS; the identity if nothing tells it.

    The coordinates are the truth, since slicing keeps them right, and are centres of pixels. Where the array's own
    transform says that they are upper-left corners (as stackstac writes them), they are corners.

    Raises
    ------
    GeoreferenceError
        If the units of the coordinates are not those of the CRS.
    """
    carried = carried_transform(image)
    own: Affine = image.rio.transform() if carried is None else carried
    if not is_upright(own):
        return _turned(image, own)
    if ("y" in image.coords) != ("x" in image.coords):
        raise GeoreferenceError("the image must have coordinates of both y and x, or of neither; got one of them")
    if "y" not in image.coords:
        if crs is not None:
            _check_other_names(image)
        return own
    factor = _unit_factor(image, crs)
    (y0, dy), (x0, dx) = (
        _first_and_step(np.asarray(image.coords[axis], np.float64), step / factor)
        for axis, step in (("y", own.e), ("x", own.a))
    )
    corner = 0.0 if _are_corners(own, (x0, y0), (dx, dy)) else 0.5
    measured = Affine(dx, 0, x0 - corner * dx, 0, dy, y0 - corner * dy)
    drift = np.abs(np.subtract(measured[:6], own[:6])) * [len(image.x), 1, 1, 1, len(image.y), 1]  # at the last pixel
    if factor == 1 and drift.max() < _EXACT_PX * min(abs(dx), abs(dy)):
        return own  # exact, while coordinates are rounded
    return Affine.scale(factor) @ measured


def _check_other_names(image: xr.DataArray) -> None:
    """Refuse coordinates of y and x that have names of their own, which would not place the image in its CRS."""
    names = {axis: [str(each.name) for each in image.coords.values() if each.dims == (axis,)] for axis in ("y", "x")}
    if all(names.values()):
        raise GeoreferenceError(
            f"the coordinates of y and x must be named y and x; got {names['y'][0]!r} and {names['x'][0]!r}. Give "
            f"image.assign_coords(y=image[{names['y'][0]!r}], x=image[{names['x'][0]!r}])"
        )


def carried_transform(image: xr.DataArray) -> Affine | None:
    """Return the transform that an array carries: rioxarray's, or that in its attributes; None without one.

    The attributes are ``transform`` of stackstac and ``spatial:transform`` of GeoZarr.

    Raises
    ------
    GeoreferenceError
        If it is not a transform.
    """
    mapping = grid_mapping_of(image)
    text = None if mapping is None else mapping.attrs.get("GeoTransform")
    given = image.attrs.get("transform", image.attrs.get("spatial:transform"))
    try:
        if text is not None:
            numbers = text.split() if isinstance(text, str) else text
            return Affine.from_gdal(*map(float, numbers))
        return None if given is None else Affine(*map(float, tuple(given)[:6]))
    except (TypeError, ValueError):
        raise GeoreferenceError(
            "the transform of the image (GeoTransform of its grid mapping, or the attribute 'transform' or "
            f"'spatial:transform') must be six numbers; got {given if text is None else text!r}"
        ) from None


def _turned(image: xr.DataArray, own: Affine) -> Affine:
    """Return the transform of an array whose rows are not along the axes of its CRS.

    Its coordinates tell where a slice of it lies: rioxarray's two-dimensional ``xc`` and ``yc``, or pixels of the file.

    Raises
    ------
    GeoreferenceError
        If the array has neither: then a slice cannot be told from the whole.
    """
    if counts_pixels(image) or all(name not in image.coords for name in ("y", "x", "xc", "yc")):
        return own
    if any(name not in image.coords or image.coords[name].dims != ("y", "x") for name in ("xc", "yc")):
        raise GeoreferenceError(
            "the image is turned, and its coordinates of y and x do not tell which part of its file it is. Open the "
            "file with geotile.open_image"
        )
    xc, yc = (np.asarray(image.coords[name], np.float64) for name in ("xc", "yc"))
    if min(xc.shape) < 2:
        raise GeoreferenceError("a turned image must have at least two rows and two columns; slice less of it")
    (rows, columns), origin = xc.shape, np.array([xc[0, 0], yc[0, 0]])
    right = (np.array([xc[0, -1], yc[0, -1]]) - origin) / (columns - 1)
    down = (np.array([xc[-1, 0], yc[-1, 0]]) - origin) / (rows - 1)
    x, y = np.arange(columns), np.arange(rows)[:, None]
    off = max(np.abs(each - (origin[k] + right[k] * x + down[k] * y)).max() for k, each in enumerate((xc, yc)))
    if not off < _TOLERANCE_PX * min(np.hypot(*right), np.hypot(*down)):
        raise GeoreferenceError(f"the coordinates xc and yc must be evenly spaced. {_REMEDY}")
    corner = origin - (right + down) / 2
    return Affine(right[0], down[0], corner[0], right[1], down[1], corner[1])


def is_upright(transform: Affine) -> bool:
    """Return whether rows and columns lie along the axes of the CRS; also false where they are turned by 90 degrees."""
    return bool(transform.is_rectilinear and transform.a != 0 and transform.e != 0)


def pixel_transform_of(image: xr.DataArray) -> Affine:
    """Return the transform from the pixels of an image to those of the file that it was sliced from."""
    (y0, dy), (x0, dx) = (_first_and_step(np.asarray(image.coords[axis], np.float64), 1.0) for axis in "yx")
    return Affine(dx, 0, x0 - dx / 2, 0, dy, y0 - dy / 2)


def _first_and_step(values: NDArray[np.float64], single: float) -> tuple[float, float]:
    """Return the first coordinate, and the step; that of the whole image where only one pixel is left."""
    first = float(values[0])
    return first, single if len(values) == 1 else (float(values[-1]) - first) / (len(values) - 1)


def _are_corners(own: Affine, first_xy: tuple[float, float], step_xy: tuple[float, float]) -> bool:
    """Return whether coordinates are the upper-left corners of the pixels of a transform."""
    if abs(own.a - step_xy[0]) > _EXACT_PX * abs(own.a) or abs(own.e - step_xy[1]) > _EXACT_PX * abs(own.e):
        return False  # another resolution, for which the transform was not made
    pixels = np.array([(first_xy[0] - own.c) / own.a, (first_xy[1] - own.f) / own.e])
    return bool((np.abs(pixels - np.round(pixels)) < 0.01).all())


def _unit_factor(image: xr.DataArray, crs: pyproj.CRS | None) -> float:
    """Return the factor from the units that the coordinates name to those of the CRS.

    Raises
    ------
    GeoreferenceError
        If they are units of another kind.
    """
    named = {str(image.coords[axis].attrs.get("units", "")).strip().lower() for axis in "yx"} - {"", "1"}
    if crs is None or not named:
        return 1.0
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0  # in radians or metres
    wanted = ("degree", float(np.rad2deg(unit))) if crs.is_geographic else ("metre", unit)
    found = {_unit(name) for name in named}
    kind, size = next(iter(found))
    if (
        crs.is_geographic and kind == "degree" and size == 1 and wanted[1] != 1
    ):  # rioxarray writes degrees for grads too
        kind = "degrees of another unit"
    if len(found) != 1 or kind != wanted[0]:
        raise GeoreferenceError(
            f"the coordinates are in {' and '.join(sorted(named))}, and the CRS {crs.name!r} is in {wanted[0]}s. "
            "Convert the coordinates, or set the CRS that they are in with image.rio.write_crs"
        )
    factor = float(size / wanted[1])
    return 1.0 if abs(factor - 1) < _SAME_UNIT else factor


def _unit(name: str) -> tuple[str, float]:
    """Return kind and size of a unit, also of a multiple such as ``0.3048 metre``, which rioxarray writes."""
    number, _, unit = name.partition(" ")
    if unit in _UNITS and re.fullmatch(r"[\d.]+(e[+-]?\d+)?", number):
        kind, size = _UNITS[unit]
        return kind, size * float(number)
    return _UNITS.get(name, (name, 1.0))
