"""What an array says of its CRS: its grid mapping (CF 5.6), an attribute, or the coordinate ``epsg`` of stackstac."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pyproj
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr

from geotile.errors import GeoreferenceError

PROJ_ATTRIBUTES = ("proj:wkt2", "proj:projjson", "proj:code", "proj:epsg", "crs_wkt", "spatial_ref", "epsg")
"""Attributes that hold a CRS: those of the proj convention of GeoZarr and STAC's extension, and older names."""
_CRS_OF_MAPPING = ("crs_wkt", "spatial_ref", "grid_mapping_name")  # attributes that make a coordinate a grid mapping
_DEFAULT = "spatial_ref"
_DEGREES = {"degrees_north", "degree_north", "degrees_east", "degree_east"}


def mapping_name(image: xr.DataArray) -> str | None:
    """Return the name of the grid mapping of x and y that an array declares; None if it declares none.

    Raises
    ------
    GeoreferenceError
        If it declares several, none of which is said to be that of x and y.

    Examples
    --------
    >>> mapping_name(xr.DataArray(attrs={"grid_mapping": "geographic: lat lon crs: x y"}))
    'crs'
    """
    declared = image.encoding.get("grid_mapping", image.attrs.get("grid_mapping"))
    if declared is None:
        return None
    text = str(declared)
    if ":" not in text:
        return text.strip()
    names = re.findall(r"(\S+)\s*:((?:\s+[^\s:]+(?!\S*:))*)", text)
    of_grid = [name for name, axes in names if {"x", "y"} <= set(axes.split())]
    if len(of_grid) == 1 or len(names) == 1:
        return str(of_grid[0] if of_grid else names[0][0])
    raise GeoreferenceError(
        f"the image must declare one grid mapping for x and y; got {text!r}. Set its CRS with image.rio.write_crs"
    )


def grid_mapping_of(image: xr.DataArray) -> xr.DataArray | None:
    """Return the coordinate that holds the grid mapping of an array, by default ``spatial_ref``; None without one.

    Raises
    ------
    GeoreferenceError
        If the array declares a grid mapping that it does not carry, and no other CRS.
    """
    name = mapping_name(image)
    if name is None and _DEFAULT not in image.coords:
        return _undeclared(image)
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


def _undeclared(image: xr.DataArray) -> xr.DataArray | None:
    """Return the only coordinate that is a grid mapping: arithmetic drops the attribute that declares it."""
    found = [each for each in image.coords.values() if each.ndim == 0 and set(_CRS_OF_MAPPING) & set(each.attrs)]
    if len(found) > 1:
        raise GeoreferenceError(
            f"the image has several grid mappings, {[each.name for each in found]}, and declares none. Set its CRS "
            "with image.rio.write_crs"
        )
    return found[0] if found else None


@lru_cache(64)  # making one takes 0.1 ms
def crs_named(crs: str) -> pyproj.CRS:
    """Return the CRS that a text in any form of pyproj's names."""
    return pyproj.CRS.from_user_input(crs)


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
        bare = bare.copy(deep=False)
        bare.encoding = {}
        if bare.attrs.get("crs", "") is None:
            del bare.attrs["crs"]
        crs = bare.rio.crs
        if crs is not None:
            return crs_named(crs.to_wkt())
        given = next((image.attrs[name] for name in PROJ_ATTRIBUTES if image.attrs.get(name) is not None), None)
        if given is None and "epsg" in image.coords and image.coords["epsg"].ndim == 0:
            given = int(image.coords["epsg"])
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
    """Return what to know about the CRS of an array, and where its pixels are taken to lie."""
    units: set[Any] = {image.coords[axis].attrs.get("units") for axis in ("y", "x") if axis in image.coords}
    if "epsg" in image.coords and "transform" not in image.attrs:
        return (
            "the array has the coordinate epsg of stackstac and no transform any more, so its coordinates are taken "
            "for centres of pixels; keep it with xarray.set_options(keep_attrs=True)",
        )
    if crs_of(image) is not None:
        return ()
    if units & _DEGREES:
        return (
            "the coordinates of the image are degrees, but it names no CRS, so the detections have none either. If it "
            "is WGS 84, give image.rio.write_crs('EPSG:4326')",
        )
    if "proj:epsg" in image.coords:
        return (
            "the image has no CRS, and the coordinate proj:epsg is that of its items: set it with image.rio.write_crs",
        )
    return ()
