"""A Zarr array as an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError

_AXES = {"lat": "y", "latitude": "y", "northing": "y", "lon": "x", "longitude": "x", "easting": "x", "bands": "band"}


def is_zarr(uri: str) -> bool:
    """Tell whether a uri names a Zarr store."""
    return uri.rstrip("/").lower().endswith(".zarr")


def open_zarr(
    uri: str, storage_options: Mapping[str, Any] | None, variable: int | str | None, bands: Any
) -> xr.DataArray:
    """Open a variable of a Zarr store as an image: its own chunks, its own coordinates.

    Raises
    ------
    ArgumentError
        If zarr is not installed, or the variable or a band is not there.
    ImageOpenError
        If it is no Zarr store.
    """
    try:
        import zarr  # noqa: F401 - xarray's engine
    except ImportError:
        raise ArgumentError("a Zarr store needs zarr: pip install 'geotile[zarr]'") from None
    try:
        stored = xr.open_zarr(uri, storage_options=dict(storage_options) if storage_options else None)
    except Exception as error:  # each kind of storage has errors of its own; all mean the same here
        raise ImageOpenError(f"cannot open {redact(uri)} as a Zarr store: {redact(str(error))}") from None
    stored = stored.rename({old: new for old, new in _AXES.items() if old in stored.dims})
    images = [str(name) for name, each in stored.data_vars.items() if {"y", "x"} <= set(each.dims)]
    name = variable if isinstance(variable, str) else images[variable or 0] if len(images) > (variable or 0) else None
    if name not in images or (variable is None and len(images) > 1):
        raise ArgumentError(f"subdataset={variable!r}: {redact(uri)} holds the images {images}; choose one")
    image: xr.DataArray = stored[name].squeeze(
        [d for d in stored[name].dims if d not in ("band", "y", "x") and stored.sizes[d] == 1]
    )
    if "spatial_ref" in stored.variables and "spatial_ref" not in image.coords:
        image = image.assign_coords(spatial_ref=stored["spatial_ref"])
    image.encoding = {"source": uri}
    if bands is None:
        return image
    listed = [bands] if isinstance(bands, int | str) else list(bands)
    if "band" not in image.dims:
        raise ArgumentError(f"bands={bands!r}: the image has dims {image.dims}, no 'band'")
    known = [str(each) for each in image.coords["band"].to_numpy()] if "band" in image.coords else []
    numbers = [known.index(str(b)) if str(b) in known else b - 1 if isinstance(b, int) else -1 for b in listed]
    if not all(0 <= number < image.sizes["band"] for number in numbers):
        raise ArgumentError(f"bands={bands!r}: the image has bands {known or list(range(1, image.sizes['band'] + 1))}")
    return image.isel(band=np.asarray(numbers))
