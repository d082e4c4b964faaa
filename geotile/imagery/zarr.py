"""An array in a Zarr store as an image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.digest import digest
from geotile.core.redact import redact
from geotile.core.warning_filter import ignore_warnings
from geotile.errors import ArgumentError, GeotileError, ImageOpenError
from geotile.geometry.grid_mapping import PROJ_ATTRIBUTES, mapping_name
from geotile.grid.tile_grid import Window
from geotile.imagery.file_array import file_array
from geotile.imagery.masks import has_data, nodata_of
from geotile.imagery.open_files import is_retryable_text
from geotile.imagery.pixels import Pixels
from geotile.imagery.redirects import client_of_one_host
from geotile.imagery.source import Source
from geotile.options import ImageOptions
from geotile.storage.location import TOTAL_TIMEOUT_S, Location
from geotile.storage.uris import expanded_path

_OF_GROUP = (*PROJ_ATTRIBUTES, "spatial:transform")  # attributes of a group that are those of its variables
_AXES = {"lat": "y", "latitude": "y", "northing": "y", "lon": "x", "longitude": "x", "easting": "x", "bands": "band"}


def is_zarr(uri: str) -> bool:
    """Return whether a URI names a Zarr store."""
    return uri.rstrip("/").lower().endswith(".zarr")


@dataclass(frozen=True, kw_only=True)
class ZarrSource(Source):
    """A variable of a Zarr store, read window by window as a file is."""

    variable: xr.Variable = field(repr=False, compare=False)
    """The variable, which reads what it is indexed with."""
    axes: tuple[str, ...]
    """Its dims in the order of the store: y and x, and perhaps band."""

    def __dask_tokenize__(self) -> Any:
        """Return what names the pixels: dask would otherwise read them."""
        return (type(self).__name__, *(getattr(self, each.name) for each in fields(self) if each.compare))

    def check(self) -> None:
        """Raise OSError if the store cannot be read here."""
        if "://" not in self.location.path and not os.path.isdir(self.location.path):
            raise OSError("there is no such folder")

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the image with at most `max_side` pixels a side, every n-th pixel of it, after all steps."""
        step = max(1, -(-max(self.shape[1:]) // max_side))
        values = self._values(self.to_whole_image(Window(0, self.shape[1], 0, self.shape[2])), step)
        data = has_data(values, self.nodata)
        for each in self.steps:
            values = each(values)
        return Pixels(values, data)

    def read_file(self, window: Window, valid: bool, out: NDArray[Any] | None = None) -> Pixels:
        """Return a window of the variable, before all steps."""
        values = self._values(window)
        if out is not None:
            out[:] = values
            values = out
        return Pixels(values, has_data(values, self.nodata) if valid else None)

    def _values(self, window: Window, step: int = 1) -> NDArray[Any]:
        y, x = window.slices
        bands = np.asarray(self.bands) - 1
        keys: dict[str, Any] = {"y": slice(y.start, y.stop, step), "x": slice(x.start, x.stop, step), "band": bands}
        try:
            values = np.asarray(self.variable[tuple(keys[axis] for axis in self.axes)].values)
        except Exception as error:  # each codec has its own errors of a damaged chunk
            raise OSError(f"{type(error).__name__}: {error}") from None  # a TimeoutError counts as a silent host
        ordered = values.transpose([self.axes.index(axis) for axis in ("band", "y", "x") if axis in self.axes])
        return ordered.reshape(len(bands), *ordered.shape[-2:])


def open_zarr(uri: str, options: ImageOptions) -> xr.DataArray:
    """Open a variable of a Zarr store as an image with the chunks and coordinates of the store.

    Parameters
    ----------
    uri : str
    options : ImageOptions
        ``storage_options``, ``subdataset`` (number, from 0, or name of the variable), ``bands``, ``scaled`` and
        ``max_block_bytes``: as for files, values are those that are stored, and nodata is ``image.rio.nodata``, unless
        they are scaled.

    Raises
    ------
    ArgumentError
        If zarr is not installed, or there is no such variable or band.
    ImageOpenError
        If it is not a Zarr store, or one that claims too much or could run code.
    """
    path = uri if "://" in expanded_path(uri) else os.path.abspath(expanded_path(uri))
    try:
        image = _opened(uri, path, options)
    except GeotileError:
        raise
    except Exception as error:  # each kind of storage and each kind of nonsense has errors of its own
        failed = ImageOpenError(f"cannot open {redact(uri)} as a Zarr store: {redact(str(error))}")
        failed.retryable = "://" in path and (isinstance(error, TimeoutError) or is_retryable_text(str(error)))
        raise failed from None
    return image if options.bands is None else _with_bands(image, options.bands)


def _opened(uri: str, path: str, options: ImageOptions) -> xr.DataArray:
    """Return a variable of a store with all its bands; nonsense in its metadata raises any error."""
    store = _open_store(path, options)
    name = _variable(store, options.subdataset, uri)
    dims = [dim for dim in store[name].dims if dim not in ("band", "y", "x") and store.sizes[dim] == 1]
    image: xr.DataArray = store[name].squeeze(dims)
    image.attrs = {each: store.attrs[each] for each in _OF_GROUP if each in store.attrs} | image.attrs
    mapping = mapping_name(image) or "spatial_ref"
    if mapping in store.variables and mapping not in image.coords:
        image = image.assign_coords({mapping: store[mapping]})
    if {"y", "x"} <= set(image.dims) <= {"band", "y", "x"} and image.dtype.kind in "buif":
        image = _windowed(image, path, uri, _total_s(options))
    else:
        image = image.chunk()
    image.encoding = {"source": redact(uri)}
    return image


def _windowed(image: xr.DataArray, path: str, uri: str, total_s: float) -> xr.DataArray:
    """Return an image whose windows are read as those of a file."""
    axes = tuple(str(dim) for dim in image.dims)
    height, width, count = image.sizes["y"], image.sizes["x"], image.sizes.get("band", 1)
    sizes = dict(zip(axes, _stored_chunks(image), strict=True))
    nodata = nodata_of(image)
    state = os.path.getmtime(path) if os.path.exists(path) else ""
    version = digest(f"{state} {image.encoding} {image.attrs}".encode())
    source = ZarrSource(
        location=Location(path=path, display_name=redact(uri), settings=(("GDAL_HTTP_TIMEOUT", f"{total_s:g}"),)),
        shape=(count, height, width), file_dtype=str(image.dtype),
        block_yx=(sizes["y"], sizes["x"]), version=version, bands=tuple(range(1, count + 1)), driver="Zarr",
        interleave="band" if sizes.get("band", 1) == 1 else "pixel", file_bands=count, whole_yx=(height, width),
        nodata=nodata, file_shape_yx=(height, width), variable=image.variable,
        axes=axes,
    )  # fmt: skip
    chunks = tuple(
        tuple(min(size, length - start) for start in range(0, length, size))
        for length, size in ((height, sizes["y"]), (width, sizes["x"]))
    )
    flat = "band" not in axes
    return xr.DataArray(
        file_array(source, (chunks[0], chunks[1]), flat=flat), coords=image.coords, attrs=image.attrs, name=image.name,
        dims=("y", "x") if flat else ("band", "y", "x"),
    )  # fmt: skip


def _stored_chunks(image: xr.DataArray) -> tuple[int, ...]:
    """Return the sizes of the chunks of a store on the dims of an image."""
    stored = {_AXES.get(dim, dim): size for dim, size in (image.encoding.get("preferred_chunks") or {}).items()}
    return tuple(max(1, int(stored.get(dim, image.sizes[dim]))) for dim in image.dims)


def _open_store(path: str, options: ImageOptions) -> xr.Dataset:
    try:
        from geotile.imagery.zarr_store import checked_store
    except ImportError:
        raise ArgumentError(
            "a Zarr store needs zarr, which is not installed. Install it with pip install zarr"
        ) from None
    storage = {name: value for name, value in (options.storage_options or {}).items() if name != "total_timeout"}
    if storage and path.lower().startswith(("http://", "https://")):
        storage.setdefault("get_client", client_of_one_host)
    checked = checked_store(path, storage or None, options.max_block_bytes, _total_s(options))
    with ignore_warnings(RuntimeWarning):  # xarray warns of a store without consolidated metadata
        return _renamed(xr.open_zarr(checked, chunks=None, mask_and_scale=options.scaled))


def _renamed(store: xr.Dataset) -> xr.Dataset:
    """Return a store with dims y, x and band, whatever they are called."""
    names = {str(dim): _AXES[str(dim)] for dim in store.dims if dim in _AXES}
    renamed: xr.Dataset = store.rename(names)
    for each in renamed.variables.values():
        if ":" in (text := str(each.attrs.get("grid_mapping", ""))):
            each.attrs["grid_mapping"] = " ".join(names.get(word, word) for word in text.split())
    return renamed


def _total_s(options: ImageOptions) -> float:
    """Return the maximum time for an answer of a store in seconds."""
    return float((options.storage_options or {}).get("total_timeout") or TOTAL_TIMEOUT_S)


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
    if not wanted:
        raise ArgumentError("bands must name at least one band; got none. Leave it out for all bands")
    numbers = [names.index(str(b)) if str(b) in names else b - 1 if isinstance(b, int) else -1 for b in wanted]
    if not all(0 <= number < image.sizes["band"] for number in numbers):
        valid: list[Any] = names or list(range(1, image.sizes["band"] + 1))
        raise ArgumentError(f"bands must be among {valid}, those of this image; got {bands!r}")
    return image.isel(band=np.asarray(numbers))
