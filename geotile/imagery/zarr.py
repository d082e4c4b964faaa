"""An array in a Zarr store as an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError
from geotile.geometry.grid_mapping import PROJ_ATTRIBUTES, mapping_name
from geotile.imagery.redirects import client_of_one_host
from geotile.options import ImageOptions

_AXES = {"lat": "y", "latitude": "y", "northing": "y", "lon": "x", "longitude": "x", "easting": "x", "bands": "band"}


def is_zarr(uri: str) -> bool:
    """Return whether a URI names a Zarr store."""
    return uri.rstrip("/").lower().endswith(".zarr")


def open_zarr(uri: str, options: ImageOptions) -> xr.DataArray:
    """Open a variable of a Zarr store as an image with the chunks and coordinates of the store.

    Parameters
    ----------
    uri : str
    options : ImageOptions
        ``storage_options``, ``subdataset`` (number, from 0, or name of the variable), ``bands`` and ``scaled``: as for
        files, values are those that are stored, and nodata is ``image.rio.nodata``, unless they are scaled.

    Raises
    ------
    ArgumentError
        If zarr is not installed, or there is no such variable or band.
    ImageOpenError
        If it is not a Zarr store.
    """
    store = _open_store(uri, options.storage_options, options.scaled)
    name = _variable(store, options.subdataset, uri)
    dims = [dim for dim in store[name].dims if dim not in ("band", "y", "x") and store.sizes[dim] == 1]
    image: xr.DataArray = store[name].squeeze(dims)
    image.attrs = {each: store.attrs[each] for each in PROJ_ATTRIBUTES if each in store.attrs} | image.attrs
    mapping = mapping_name(image) or "spatial_ref"
    if mapping in store.variables and mapping not in image.coords:
        image = image.assign_coords({mapping: store[mapping]})
    image.encoding = {"source": redact(uri)}
    return image if options.bands is None else _with_bands(image, options.bands)


def _open_store(uri: str, storage_options: Mapping[str, Any] | None, scaled: bool) -> xr.Dataset:
    try:
        import zarr  # noqa: F401 - xarray's engine
    except ImportError:
        raise ArgumentError(
            "a Zarr store needs zarr, which is not installed. Install it with pip install 'geotile[zarr]'"
        ) from None
    try:
        options = dict(storage_options) if storage_options else None
        if options is not None and uri.lower().startswith(("http://", "https://")):
            options.setdefault("get_client", client_of_one_host)
        store: xr.Dataset = xr.open_zarr(uri, storage_options=options, mask_and_scale=scaled)
    except Exception as error:  # each kind of storage has its own errors; all mean the same here
        raise ImageOpenError(f"cannot open {redact(uri)} as a Zarr store: {redact(str(error))}") from None
    renamed: xr.Dataset = store.rename({dim: _AXES[str(dim)] for dim in store.dims if dim in _AXES})
    return renamed


def _variable(store: xr.Dataset, variable: int | str | None, uri: str) -> str:
    """Return the name of the variable to open."""
    images = [str(name) for name, each in store.data_vars.items() if {"y", "x"} <= set(each.dims)]
    name = variable if isinstance(variable, str) else images[variable or 0] if len(images) > (variable or 0) else None
    if name is None or name not in images or (variable is None and len(images) > 1):
        raise ArgumentError(
            f"subdataset must be the number or the name of an image in {redact(uri)}, which contains {images}; got "
            f"{variable!r}"
        )
    return name


def _with_bands(image: xr.DataArray, bands: Any) -> xr.DataArray:
    """Return an image with the bands that are given by number, from 1, or by name."""
    if "band" not in image.dims:
        raise ArgumentError(f"bands needs an image with a dim 'band'; this one has dims {image.dims}. Leave bands out")
    names = [str(each) for each in image.coords["band"].to_numpy()] if "band" in image.coords else []
    wanted = [bands] if isinstance(bands, int | str) else list(bands)
    numbers = [names.index(str(b)) if str(b) in names else b - 1 if isinstance(b, int) else -1 for b in wanted]
    if not all(0 <= number < image.sizes["band"] for number in numbers):
        valid: list[Any] = names or list(range(1, image.sizes["band"] + 1))
        raise ArgumentError(f"bands must be among {valid}, those of this image; got {bands!r}")
    return image.isel(band=np.asarray(numbers))
