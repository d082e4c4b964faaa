"""From a URI to a lazy image: the header is read now, pixels are read when they are computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rioxarray.rioxarray import affine_to_coords

from geotile.core.checks import as_pair, check_path
from geotile.core.option import with_options
from geotile.core.redact import redact
from geotile.core.registry import Registry
from geotile.core.warning_filter import ignore_warnings
from geotile.errors import ArgumentError, ImageOpenError
from geotile.geometry.coordinates import is_upright
from geotile.geometry.georeference import PLACEMENT, SCALE, georeference_of, wkt_of
from geotile.geometry.ground import pixel_size_m
from geotile.geometry.placement import GcpPlacement, Placement, RpcPlacement
from geotile.grid.regions import auto_depends_on, plan_grid
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.file_array import file_array
from geotile.imagery.header import NO_PLACE, Header, Place, read_header
from geotile.imagery.sar import remapped, sar_placement
from geotile.imagery.source import Source
from geotile.imagery.stac import is_stac, stac_asset
from geotile.imagery.values import expanded, scaled
from geotile.imagery.zarr import is_zarr, open_zarr
from geotile.options import ImageOptions, OpenOptions
from geotile.public import public
from geotile.storage.location import Location, locate

_MAX_KEPT_COORDINATES = 2**16
_images = Registry[Any, tuple[Header, xr.DataArray]](16)  # a service opens the image of a job twice
_ZARR_OPTIONS = ("storage_options", "subdataset", "bands", "asset", "scaled", "max_block_bytes")


def _check_zarr_options(options: ImageOptions, chunks: Any) -> None:
    """Refuse the options that apply only to image files."""
    unused = [name for name in options.changed() if name not in (*_ZARR_OPTIONS, "chunks", "allow_vrt")]
    if chunks != "auto":
        unused.append("chunks")
    if unused:
        raise ArgumentError(
            f"{', '.join(unused)} cannot be applied to a Zarr store, which is opened with {', '.join(_ZARR_OPTIONS)}. "
            "Open it with xarray, prepare the array there, and pass the array"
        )


@public
@with_options(OpenOptions)
def open_image(uri: Any, options: OpenOptions) -> xr.DataArray:
    """Open an image lazily: only its header is read.

    Cropping the image (``image[:, y0:y1, x0:x1]``) or selecting bands (``image.isel(band=[2, 1, 0])``) keeps it lazy:
    only the windows of the crop are read.

    Parameters
    ----------
    uri : str, path or pystac.Item
        Anything that GDAL reads: a path, ``s3://``, ``https://``, ``gs://``, ``az://``, ``/vsi...``; a Zarr store; a
        STAC item.
    {options}

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), dtype as in the file, backed by Dask; CRS and transform under ``.rio``.

    Raises
    ------
    ImageOpenError
        If the file is missing, access is denied, it is not an image, it has no bands, or its pixels are complex and
        `sar` is not given.
    ArgumentError
        If an option cannot be used.
    GeoreferenceError
        If `resolution` is given for an image without a georeference.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> image = open_image(write_example(), bands=["red", "green"])
    >>> image.dims, image.shape
    (('band', 'y', 'x'), (2, 256, 256))
    """
    return opened(uri, options, options.chunks)


def opened(uri: Any, options: ImageOptions, chunks: Any = "auto", argument: str = "uri") -> xr.DataArray:
    """Open an image as `open_image` does; `argument` is the name of the argument in errors."""
    if is_stac(uri, options.asset):
        uri = stac_asset(uri, options.asset, argument)
    name = check_path(uri, argument)
    if is_zarr(name):
        _check_zarr_options(options, chunks)
        return open_zarr(name, options)
    header = read_header(
        locate(name, options.storage_options), subdataset=options.subdataset, bands=options.bands,
        allow_vrt=options.allow_vrt, sidecars=options.sidecars, max_block_bytes=options.max_block_bytes,
    )  # fmt: skip
    given = options.part(ImageOptions).changed()
    given.pop("storage_options", None)  # the location of the source has them
    key = header.source, name, repr(chunks), repr(given), auto_depends_on() if isinstance(chunks, str) else None
    kept = None if options.dem is not None else _images.peek(key)
    if kept is not None and kept[0] == header:
        return kept[1].copy(deep=False)
    image = _image(header, options, chunks)
    image.encoding = {"source": redact(name)}
    if sum(image.shape[1:]) <= _MAX_KEPT_COORDINATES:
        _images.put(key, (header, image.copy(deep=False)))
    return image


def _image(header: Header, options: ImageOptions, chunks: Any) -> xr.DataArray:
    """Return the lazy image of a header."""
    place = header.place if options.georeference else NO_PLACE
    source, names = expanded(header.source, header.band_names, header.colormap if options.palette == "expand" else None)
    source = remapped(source, options.sar, header.place)
    if options.scaled:
        source = scaled(source, header.scales, header.offsets)
    header = replace(header, band_names=names)
    placement = _placement(place, options) if options.georeference else None
    image = _lazy(source, chunks, place, placement, header)
    if options.resolution is not None:
        source = _resampled(source, image, options.resolution)
        image = _lazy(source, chunks, place, placement, header)
    return image


def from_source(source: Source, like: xr.DataArray) -> xr.DataArray:
    """Return the image of a source with the georeference and the regions of another image."""
    assert like.chunks is not None
    return like.copy(data=file_array(source, (like.chunks[-2], like.chunks[-1]), flat=like.ndim == 2))


def _lazy(source: Source, chunks: Any, place: Place, placement: Placement | None, header: Header) -> xr.DataArray:
    data = file_array(source, _chunks(source, chunks))
    image = xr.DataArray(data, dims=("band", "y", "x"), coords={"band": _band_numbers(source)})
    if any(header.band_names) and len(header.band_names) == len(image):
        image.attrs["long_name"] = header.band_names
    return _with_georeference(image, place, placement, source)


def _band_numbers(source: Source) -> NDArray[np.int64]:
    """Return the file's band numbers, or numbers from 1 if a step changes the number of bands."""
    same = len(source.bands) == source.shape[0]
    return np.asarray(source.bands if same else range(1, source.shape[0] + 1), np.int64)


def _dem_location(dem: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Location:
    """Return the location of an elevation model; a missing file fails now, not after the run."""
    location = locate(str(os.fspath(dem)), _if_remote(dem, storage_options))
    try:
        return read_header(location).source.location
    except ImageOpenError as error:
        named = ImageOpenError(f"dem cannot be opened: {error}")
        named.retryable = error.retryable
        raise named from None


def _placement(place: Place, options: ImageOptions) -> Placement | None:
    """Return the placement of an image that has no affine transform."""
    dem, height = options.dem, options.height
    if place.rpcs is not None:
        location = None if dem is None else _dem_location(dem, options.storage_options)
        return RpcPlacement(tuple(sorted(place.rpcs.items())), height, location)
    if dem is not None:
        raise ArgumentError("dem applies only to images with RPCs, and this image has none; leave it out")
    if (placement := sar_placement(place, height)) is not None:
        return placement
    if height is not None:
        raise ArgumentError(
            "height applies only to images with RPCs or a SICD header, and this image has neither; leave it out"
        )
    if place.gcps:
        return GcpPlacement(tuple((p.col, p.row, p.x, p.y, p.z or 0.0) for p in place.gcps))
    return None


def _if_remote(uri: Any, storage_options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return storage_options if "://" in str(uri) else None


def _with_georeference(image: xr.DataArray, place: Place, placement: Placement | None, source: Source) -> xr.DataArray:
    """Return the image with its georeference under ``.rio`` and coordinates of y and x.

    If the axes have no world coordinates of their own, y and x are pixels of the file.
    """
    sy, sx = source.scale_yx
    if source.nodata is not None and not source.steps:
        image = image.rio.write_nodata(source.nodata)
    geographic = placement is not None and not isinstance(placement, GcpPlacement)
    crs = wkt_of("OGC:CRS84") if geographic else place.crs
    if crs is None:
        image = image.assign_coords(spatial_ref=xr.Variable((), 0))
    else:
        with ignore_warnings(UserWarning):  # the CF attributes lack some parameters; the WKT beside them has all
            image = image.rio.write_crs(crs)
    if placement is not None:
        notes = {"gcps" if isinstance(placement, GcpPlacement) else "rpc": type(placement).__name__}
        image.spatial_ref.attrs |= notes
        image.spatial_ref.encoding[PLACEMENT] = placement
    elif place.transform is not None:
        image = image.rio.write_transform(place.transform @ Affine.scale(sx, sy))
    if source.resampled:
        image.spatial_ref.attrs[SCALE] = f"{sy!r} {sx!r}"
    return image.assign_coords(_coordinates(source, None if placement is not None else place.transform))


def _coordinates(source: Source, transform: Affine | None) -> Mapping[str, Any]:
    """Return coordinates of y and x: of the world if the transform has no rotation, else pixels of the file."""
    _, height, width = source.shape
    sy, sx = source.scale_yx
    if transform is not None and is_upright(transform):
        world: Mapping[str, Any] = affine_to_coords(transform @ Affine.scale(sx, sy), width, height)
        return world
    return {
        dim: (dim, (np.arange(length) + 0.5) * scale, {"units": "pixel"})
        for dim, length, scale in (("y", height, sy), ("x", width, sx))
    }


def _resampled(source: Source, image: xr.DataArray, resolution: float) -> Source:
    """Return the source at a ground size of a pixel in metres."""
    pixel_m = float(resolution)
    shape_yx = source.shape[1], source.shape[2]
    own_m = pixel_size_m(georeference_of(image), shape_yx)
    height, width = (max(1, round(n * own / pixel_m)) for n, own in zip(shape_yx, own_m, strict=True))
    if max(height, width) > 2**31 - 1 or height * width > 2**10 * shape_yx[0] * shape_yx[1]:
        raise ArgumentError(
            f"resolution must not be finer than 1/32 of the image's own, which is {own_m[1]:.3g} m; got {resolution} m"
        )
    return source.at_shape(height, width)


def _is_whole(size: Any) -> bool:
    """Return whether a chunk size means the whole axis, as for Dask."""
    return isinstance(size, int) and size == -1


def _chunks(source: Source, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return heights and widths of the regions in pixels."""
    _, height, width = source.shape
    if isinstance(chunks, tuple) and len(chunks) == 2 and all(isinstance(c, tuple) for c in chunks):
        return TileGrid((height, width), 1, 0, chunks).chunks
    if isinstance(chunks, Mapping):
        if unknown := [name for name in chunks if name not in ("y", "x")]:
            raise ArgumentError(f'chunks must name no axes but "y" and "x"; got {unknown[0]!r}')
        chunks = (chunks.get("y", -1), chunks.get("x", -1))
    if chunks is None or _is_whole(chunks):
        return (height,), (width,)
    if isinstance(chunks, tuple) and len(chunks) == 2:
        chunks = tuple(n if _is_whole(size) else size for size, n in zip(chunks, (height, width), strict=True))
    if not (isinstance(chunks, str) and chunks == "auto"):
        chunks = as_pair(chunks, "chunks", 1)
    itemsize = np.dtype(source.dtype).itemsize
    return plan_grid(source.shape, itemsize, source.block_edges, 1, 0, chunks, sequential=source.sequential).chunks
