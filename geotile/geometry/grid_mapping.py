"""What an array says of its CRS: its grid mapping (CF 5.6), or the attributes of the proj convention of GeoZarr."""

from __future__ import annotations

from typing import Any

import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr

from geotile.errors import GeoreferenceError

PROJ_ATTRIBUTES = ("proj:wkt2", "proj:projjson", "proj:code", "proj:epsg")
"""Attributes that hold a CRS, as the proj convention of GeoZarr and STAC's extension name them."""
_DEFAULT = "spatial_ref"
_DEGREES = {"degrees_north", "degree_north", "degrees_east", "degree_east"}


def mapping_name(image: xr.DataArray) -> str | None:
    """Return the name of the grid mapping that an array declares; None if it declares none.

    Examples
    --------
    >>> mapping_name(xr.DataArray(attrs={"grid_mapping": "crs: x y"}))
    'crs'
    """
    declared = image.encoding.get("grid_mapping", image.attrs.get("grid_mapping"))
    return None if declared is None else str(declared).partition(":")[0].strip()


def grid_mapping_of(image: xr.DataArray) -> xr.DataArray | None:
    """Return the coordinate that holds the grid mapping of an array, by default ``spatial_ref``; None without one.

    Raises
    ------
    GeoreferenceError
        If the array declares a grid mapping that it does not carry, and no other CRS.
    """
    name = mapping_name(image)
    if name is None or name in image.coords:
        return image.coords.get(name or _DEFAULT)
    declared = "grid_mapping" in image.attrs  # rioxarray keeps the name in the encoding when users drop the coordinate
    if declared and "crs" not in image.attrs and not any(each in image.attrs for each in PROJ_ATTRIBUTES):
        raise GeoreferenceError(
            f"the image declares the grid mapping {name!r} and does not carry it, so its CRS is unknown. Open its file "
            "with decode_coords='all', set the CRS with image.rio.write_crs, or leave it without one with "
            "del image.attrs['grid_mapping']"
        )
    return None


def crs_of(image: xr.DataArray) -> pyproj.CRS | None:
    """Return the CRS of an array; None if it has none.

    Raises
    ------
    GeoreferenceError
        If it declares a CRS that cannot be read.

    Examples
    --------
    >>> crs_of(xr.DataArray(attrs={"proj:code": "EPSG:32631"})).name
    'WGS 84 / UTM zone 31N'
    """
    mapping, given = grid_mapping_of(image), None
    try:
        bare = image if mapping is None else image.assign_attrs(grid_mapping=mapping.name)
        bare.encoding = {}
        crs = bare.rio.crs
        if crs is not None:
            return pyproj.CRS.from_user_input(crs)
        given = next((image.attrs[name] for name in PROJ_ATTRIBUTES if image.attrs.get(name) is not None), None)
        if given is not None:
            return pyproj.CRS.from_user_input(given)
    except Exception as error:  # rasterio and pyproj have errors of their own
        raise GeoreferenceError(
            f"the CRS of the image cannot be read ({error}). Set it with image.rio.write_crs"
        ) from None
    if mapping is not None and "grid_mapping_name" in mapping.attrs:
        raise GeoreferenceError(
            f"the grid mapping {mapping.name!r} of the image, {mapping.attrs['grid_mapping_name']!r}, cannot be read "
            "as a CRS. Set the CRS with image.rio.write_crs"
        )
    return None


def crs_notes(image: xr.DataArray) -> tuple[str, ...]:
    """Return what to know about an array with coordinates in degrees that names no CRS."""
    units: set[Any] = {image.coords[axis].attrs.get("units") for axis in ("y", "x") if axis in image.coords}
    if not units & _DEGREES or crs_of(image) is not None:
        return ()
    return (
        "the coordinates of the image are degrees, but it names no CRS, so the detections have none either. If it is "
        "WGS 84, give image.rio.write_crs('EPSG:4326')",
    )
