"""Rasters that `geotile.predict_to` has written, read back as `geotile.predict` returns them."""

from __future__ import annotations

import os
from typing import Any

import rioxarray
import xarray as xr

from geotile.core.checks import check_path
from geotile.core.rasterio_env import READ_ERRORS
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError
from geotile.geometry.georeference import PLACEMENT
from geotile.imagery.open import opened as open_file
from geotile.imagery.zarr import is_zarr, open_zarr
from geotile.options import ImageOptions

_CHUNK = 4096  # pixels


def raster_at(raster: Any) -> xr.DataArray:
    """Return a raster; one that is given by its place is opened lazily.

    Parameters
    ----------
    raster : xarray.DataArray, str or path
        An array, or the path or URI of a GeoTIFF or of a Zarr store.

    Raises
    ------
    ArgumentError
        If it is something else.
    ImageOpenError
        If the file cannot be opened.
    """
    if isinstance(raster, xr.DataArray):
        return raster
    if not isinstance(raster, str | os.PathLike):
        raise ArgumentError(
            "raster must be a DataArray with dims (y, x) or (band, y, x), or the path of a GeoTIFF or a Zarr store; "
            f"got a value of type {type(raster).__name__}"
        )
    place = check_path(raster, "raster")
    if is_zarr(place):
        return open_zarr(place, ImageOptions())
    try:
        opened = rioxarray.open_rasterio(
            place, chunks={"band": 1, "y": _CHUNK, "x": _CHUNK}, lock=False, driver="GTiff"
        )  # fmt: skip
    except READ_ERRORS as error:
        raise ImageOpenError(f"cannot open {redact(place)} as a GeoTIFF: {redact(str(error))}") from None
    assert isinstance(opened, xr.DataArray)
    if not opened.rio.transform().is_identity:
        return opened
    spatial_ref = (placed := open_file(place, ImageOptions()))["spatial_ref"]
    if PLACEMENT not in spatial_ref.encoding:
        return opened
    # rioxarray leaves out the points or polynomials
    return opened.assign_coords(y=placed["y"], x=placed["x"], spatial_ref=spatial_ref)
