"""From a uri to a lazy image: the header now, pixels when a task asks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine
from dask.base import tokenize
from numpy.typing import NDArray
from rioxarray.rioxarray import affine_to_coords

from geotile.core.checks import check_positive
from geotile.errors import ArgumentError
from geotile.geometry.georeference import PLACEMENT, SCALE, georeference_of, pixel_size_m, wkt_of
from geotile.geometry.placement import GcpPlacement, Placement, RpcPlacement
from geotile.grid.regions import plan_grid
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.header import NO_PLACE, BandNames, Header, Place, read_header
from geotile.imagery.sar import SarRemap, remapped, sar_placement
from geotile.imagery.source import Source
from geotile.imagery.stac import is_stac, stac_asset
from geotile.imagery.zarr import is_zarr, open_zarr
from geotile.storage.location import locate


class OpenOptions(TypedDict, total=False):
    """What `open_image` takes besides the uri; `detect` and `plan` take them too."""

    storage_options: Mapping[str, Any] | None
    bands: Sequence[int | str] | int | str | None
    subdataset: int | str | None
    asset: str | None
    resolution: float | None
    georeference: bool
    dem: str | None
    height: float | None
    sar: SarRemap | None
    allow_vrt: bool
    sidecars: bool | None


def open_image(
    uri: Any,
    *,
    chunks: str | int | Mapping[str, int] | tuple[Any, ...] | None = "auto",
    storage_options: Mapping[str, Any] | None = None,
    bands: BandNames = None,
    subdataset: int | str | None = None,
    asset: str | None = None,
    resolution: float | None = None,
    georeference: bool = True,
    dem: str | os.PathLike[str] | None = None,
    height: float | None = None,
    sar: SarRemap | None = None,
    allow_vrt: bool = False,
    sidecars: bool | None = None,
) -> xr.DataArray:
    """Open an image lazily: only its header is read.

    Parameters
    ----------
    uri : str, path or pystac.Item
        Anything GDAL reads: a path, ``s3://``, ``https://``, ``gs://``, ``az://``, ``/vsi...``; a
        Zarr store; a STAC item.
    chunks : "auto", int, tuple or mapping
        Regions, rounded to the file's blocks: of at most 32 MiB (less where Dask's
        ``array.chunk-size`` is less), or in pixels, or in pixels by axis
        (``{"y": 4096, "x": 4096}``).
    storage_options : mapping, optional
        How to reach it, in the words of fsspec, s3fs, gcsfs and adlfs: ``key``, ``secret``,
        ``token``, ``profile``, ``role_arn``, ``anon``, ``endpoint_url``, ``requester_pays``,
        ``client_kwargs``, ``headers``, ``timeout`` (seconds without a byte) ... It travels to
        every worker, and is shown nowhere.
    bands : int, str or sequence, optional
        Bands by number, from 1, or by name, in the order wanted; by default all but alpha.
    subdataset : int or str, optional
        Number, from 0, or end of the name of an image inside the file (a NITF's image segments);
        in a Zarr group, the name of the variable.
    asset : str, optional
        Key of a STAC item's asset.
    resolution : float, optional
        Ground size of a pixel in metres to resample to, from the nearest overview. Detections
        come back in pixels of the full resolution.
    georeference : bool
        False leaves the image in pixels, whatever the file says of its place.
    dem : str or path, optional
        Elevation model (metres) for an image placed by RPCs.
    height : float, optional
        Metres above the ellipsoid for an image placed by RPCs, or a SICD; by default its own.
    sar : {"amplitude", "quarter_power"}, optional
        Turn complex pixels into their magnitude, or its square root.
    allow_vrt : bool
        Open formats that name further files or hosts too (VRT, DIMAP, SAFE, WMS ...): what they
        name is read with your rights, so allow it for images that you trust.
    sidecars : bool, optional
        Look for files beside a remote image (``_RPB.TXT``, ``.ovr``, ``.msk``, ``.aux.xml``), for a
        few requests more; by default only where it has no place of its own.

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), dtype as in the file, on Dask; CRS and transform under ``.rio``.

    Raises
    ------
    ImageOpenError
        If the file is missing, denied, no image, without bands, or of complex numbers.
    ArgumentError
        If an option cannot be used.
    GeoreferenceError
        If `resolution` is asked of an image without a place.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> image = open_image(write_example(), bands=["red", "green"])
    >>> image.dims, image.shape
    (('band', 'y', 'x'), (2, 256, 256))
    """
    if is_stac(uri, asset):
        uri = stac_asset(uri, asset)
    name = str(os.fspath(uri))
    if is_zarr(name):
        return open_zarr(name, storage_options, subdataset, bands)
    location = locate(name, storage_options)
    header = read_header(location, subdataset=subdataset, bands=bands, allow_vrt=allow_vrt, sidecars=sidecars)
    place = header.place if georeference else NO_PLACE
    source = remapped(header.source, sar, header.place)
    placement = _placement(place, dem, height, storage_options) if georeference else None
    image = _lazy(source, chunks, place, placement, header)
    if resolution is not None:
        source = _resampled(source, image, resolution)
        image = _lazy(source, chunks, place, placement, header)
    image.encoding = {"source": name}
    return image


def from_source(source: Source, like: xr.DataArray) -> xr.DataArray:
    """Return the image of a source, placed and cut into regions as another one is."""
    assert like.chunks is not None
    return like.copy(data=_array(source, (like.chunks[-2], like.chunks[-1])))


def source_of(image: xr.DataArray) -> Source | None:
    """Return the file that an image still is, or None once anything was done to it."""
    graph = getattr(image.data, "dask", None)
    layer = getattr(graph, "layers", {}).get(getattr(image.data, "name", None))
    notes = getattr(layer, "collection_annotations", None) or {}
    source: Source | None = notes.get("geotile_source")
    return source


def _lazy(source: Source, chunks: Any, place: Place, placement: Placement | None, header: Header) -> xr.DataArray:
    data = _array(source, _chunks(source, chunks))
    image = xr.DataArray(data, dims=("band", "y", "x"), coords={"band": _band_numbers(source)})
    if any(header.band_names) and len(header.band_names) == len(image):
        image.attrs["long_name"] = header.band_names
    return _placed(image, place, placement, source)


def _array(source: Source, regions: tuple[tuple[int, ...], tuple[int, ...]]) -> da.Array:
    data = da.map_blocks(
        _read_chunk,
        chunks=((source.shape[0],), *regions),
        dtype=source.dtype,
        meta=np.empty((0, 0, 0), source.dtype),
        source=source,
        regions=regions,
        name=f"open-image-{tokenize(source, regions)}",
    )
    data.dask.layers[data.name].collection_annotations["geotile_source"] = source
    return data


def _band_numbers(source: Source) -> NDArray[np.int64]:
    own = len(source.bands) == source.shape[0]
    return np.asarray(source.bands if own else range(1, source.shape[0] + 1), np.int64)


def _placement(
    place: Place, dem: Any, height: float | None, storage_options: Mapping[str, Any] | None
) -> Placement | None:
    """Return what places an image that no affine transform places."""
    if place.rpcs is not None:
        where = None if dem is None else locate(str(os.fspath(dem)), _if_remote(dem, storage_options))
        if where is not None:
            where = read_header(where).source.location  # found missing now, not at the end of the run
        return RpcPlacement(tuple(sorted(place.rpcs.items())), height, where)
    if dem is not None:
        raise ArgumentError("dem= applies to images placed by RPCs; this one is not: leave it out")
    if (found := sar_placement(place, height)) is not None:
        return found
    if height is not None:
        raise ArgumentError("height= applies to images placed by RPCs or a SICD's header; leave it out")
    if place.gcps:
        return GcpPlacement(tuple((p.col, p.row, p.x, p.y, p.z or 0.0) for p in place.gcps))
    return None


def _if_remote(uri: Any, storage_options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return storage_options if "://" in str(uri) else None


def _placed(image: xr.DataArray, place: Place, placement: Placement | None, source: Source) -> xr.DataArray:
    """Write the place under ``.rio``; y and x count pixels of the file where an axis has no coordinate of its own."""
    height, width = image.shape[1:]
    sy, sx = source.scale_yx
    if source.nodata is not None and not source.steps:
        image = image.rio.write_nodata(source.nodata)
    geographic = placement is not None and not isinstance(placement, GcpPlacement)
    crs = wkt_of("OGC:CRS84") if geographic else place.crs
    image = image.rio.write_crs(crs) if crs is not None else image.assign_coords(spatial_ref=xr.Variable((), 0))
    if placement is not None:
        notes = {"gcps" if isinstance(placement, GcpPlacement) else "rpc": type(placement).__name__}
        image.spatial_ref.attrs |= notes
        image.spatial_ref.encoding[PLACEMENT] = placement
    elif place.transform is not None:
        image = image.rio.write_transform(place.transform @ Affine.scale(sx, sy))
    if source.resampled:
        image.spatial_ref.attrs[SCALE] = f"{sy!r} {sx!r}"
    if placement is None and place.transform is not None and place.transform.is_rectilinear:
        return image.assign_coords(affine_to_coords(place.transform @ Affine.scale(sx, sy), width, height))
    return image.assign_coords(
        {
            d: (d, (np.arange(n) + 0.5) * scale, {"units": "pixel"})
            for d, n, scale in (("y", height, sy), ("x", width, sx))
        }
    )


def _resampled(source: Source, image: xr.DataArray, resolution: float) -> Source:
    wanted = check_positive(resolution, "resolution", "metres")
    own_y, own_x = pixel_size_m(georeference_of(image), (source.shape[1], source.shape[2]))
    height, width = (max(1, round(n * own / wanted)) for n, own in ((source.shape[1], own_y), (source.shape[2], own_x)))
    if max(height, width) > 2**31 - 1 or height * width > 2**10 * source.shape[1] * source.shape[2]:
        raise ArgumentError(f"resolution={resolution} m: the image has {own_x:.3g} m; ask for no finer than a 32nd")
    return source.at_shape(height, width)


def _chunks(source: Source, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    _, height, width = source.shape
    if isinstance(chunks, tuple) and len(chunks) == 2 and all(isinstance(c, tuple) for c in chunks):
        return TileGrid((height, width), 1, 0, chunks).chunks
    if isinstance(chunks, Mapping):
        chunks = (chunks.get("y", height), chunks.get("x", width))
    if chunks is None or chunks == -1:
        return (height,), (width,)
    itemsize = np.dtype(source.dtype).itemsize
    return plan_grid(source.shape, itemsize, source.block_edges, 1, 0, chunks, whole=source.sequential).chunks


def _read_chunk(source: Source, regions: tuple[tuple[int, ...], ...], block_id: tuple[int, ...]) -> NDArray[Any]:
    _, row, column = block_id
    grid = TileGrid(source.shape[1:], 1, 0, regions)  # type: ignore[arg-type]  # two axes
    return source.read(grid.region_window(row, column)).values
