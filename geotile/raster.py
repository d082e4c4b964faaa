"""From a uri to a lazy image: the header now, pixels when a task asks."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import rasterio
import rasterio.windows
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine
from dask.base import tokenize
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rioxarray.rioxarray import affine_to_coords

from geotile.checks import Pair
from geotile.errors import ImageOpenError, ImageReadError
from geotile.grid import TileGrid, Window
from geotile.quiet import unplaced
from geotile.regions import plan_grid

GDAL_CACHE_BYTES = 64 * 2**20  # a run reads no block again, so a larger cache earns nothing
_OPEN_FILES = 4  # datasets kept open per thread
_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file: its header, and how to read a window of it. Opened on first read."""

    uri: str = field(repr=False)
    """It may hold a secret: shown nowhere."""
    shape: tuple[int, int, int]
    """Bands, height, width."""
    dtype: str
    block_yx: Pair
    """Height and width of a block in pixels."""
    version: str
    """Tells this file from a later one of the same name."""

    @property
    def block_edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inner edges of the blocks on y and x, in pixels."""
        _, height, width = self.shape
        return (
            np.arange(self.block_yx[0], height, self.block_yx[0], dtype=np.int64),
            np.arange(self.block_yx[1], width, self.block_yx[1], dtype=np.int64),
        )

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window of all bands, (band, y, x).

        Raises
        ------
        ImageReadError
            If a block in it cannot be read.
        """
        area = rasterio.windows.Window.from_slices(*window.slices)
        try:
            with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
                pixels: NDArray[Any] = _dataset(self).read(window=area)
        except (RasterioError, OSError) as error:
            raise ImageReadError(
                f"cannot read rows {window.y0}:{window.y1}, columns {window.x0}:{window.x1} of "
                f"{redact(self.uri)}: {redact(str(error))}"
            ) from None
        return pixels


def open_image(
    uri: str | os.PathLike[str],
    *,
    chunks: str | int | Mapping[str, int] | tuple[Any, ...] | None = "auto",
    georeference: bool = True,
) -> xr.DataArray:
    """Open an image lazily: only its header is read.

    Parameters
    ----------
    uri : str or path
        Anything GDAL reads: a path, ``s3://``, ``https://``, ``/vsi...``.
    chunks : "auto", int, tuple or mapping
        Regions, rounded to the file's blocks: of at most 32 MiB (less where Dask's
        ``array.chunk-size`` is less), or in pixels, or in pixels by axis
        (``{"y": 4096, "x": 4096}``).
    georeference : bool
        False leaves the image in pixels, whatever the file says of its place.

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), dtype as in the file, on Dask; CRS and transform under ``.rio``.

    Raises
    ------
    ImageOpenError
        If the file is missing, denied, no image, without bands, or of complex numbers.
    ArgumentError
        If the chunks cannot be used.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> image = open_image(write_example())
    >>> image.dims, image.shape
    (('band', 'y', 'x'), (3, 256, 256))
    """
    name = str(os.fspath(uri))
    source, place = _header(name)
    regions = _chunks(source, chunks)
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
    image = xr.DataArray(data, dims=("band", "y", "x"), coords={"band": np.arange(1, source.shape[0] + 1)})
    image = _placed(image, place if georeference else _Place())
    image.encoding = {"source": name}
    return image


def source_of(image: xr.DataArray) -> Source | None:
    """Return the file that an image still is, or None once anything was done to it."""
    graph = getattr(image.data, "dask", None)
    layer = getattr(graph, "layers", {}).get(getattr(image.data, "name", None))
    notes = getattr(layer, "collection_annotations", None) or {}
    source: Source | None = notes.get("geotile_source")
    return source


def redact(text: str) -> str:
    """Mask passwords in urls and the values of their query parameters.

    Examples
    --------
    >>> redact("https://me:secret@host/a.tif?token=abc&x=1")
    'https://***@host/a.tif?token=***&x=***'
    """
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"([?&][\w.%-]+=)[^&\s'\")]+", r"\1***", text)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What a header says of where the image lies, and of its nodata."""

    transform: Affine | None = None
    crs: Any = None
    gcps: tuple[list[Any], Any] = ((), None)  # type: ignore[assignment]  # rasterio gives a list
    by_rpc: bool = False
    nodata: float | None = None


def _header(uri: str) -> tuple[Source, _Place]:
    """Read the header."""
    _must_be_readable(uri)
    try:
        with unplaced():
            file = rasterio.open(uri)
        with file:
            _must_be_usable(uri, file)
            source = Source(
                uri=uri, shape=(file.count, file.height, file.width), dtype=file.dtypes[0],
                block_yx=file.block_shapes[0], version=_version(uri),
            )  # fmt: skip
            placed = not file.transform.is_identity
            return source, _Place(
                transform=file.transform if placed else None, crs=file.crs, gcps=file.gcps,
                by_rpc=file.rpcs is not None and not placed, nodata=file.nodata,
            )  # fmt: skip
    except (RasterioError, OSError) as error:
        raise ImageOpenError(f"cannot open {redact(uri)} as an image: {redact(str(error))}") from None


def _placed(image: xr.DataArray, place: _Place) -> xr.DataArray:
    """Write the place under ``.rio``; y and x count pixels where an axis has no coordinate of its own."""
    height, width = image.shape[1:]
    if place.nodata is not None:
        image = image.rio.write_nodata(place.nodata)
    if place.crs is not None:
        image = image.rio.write_crs(place.crs)
    if place.transform is not None:
        image = image.rio.write_transform(place.transform)
    elif place.gcps[0]:
        image = image.rio.write_gcps(*place.gcps)
    elif place.by_rpc:
        image = image.assign_coords(spatial_ref=xr.Variable((), 0, {"rpc": "yes"}))
    if place.transform is not None and place.transform.is_rectilinear:
        return image.assign_coords(affine_to_coords(place.transform, width, height))
    return image.assign_coords(
        {d: (d, np.arange(n) + 0.5, {"units": "pixel"}) for d, n in (("y", height), ("x", width))}
    )


def _must_be_readable(uri: str) -> None:
    if "://" in uri or uri.startswith("/vsi"):
        return
    path = Path(uri)
    if ":" in uri and not path.exists():
        return  # a subdataset (NITF_IM:0:file), which GDAL alone can resolve
    if not path.exists():
        raise ImageOpenError(f"no such image: {path} (in {Path.cwd()})")
    if path.is_file() and not os.access(path, os.R_OK):
        raise ImageOpenError(f"no permission to read {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageOpenError(f"{path} is empty (0 bytes)")


def _must_be_usable(uri: str, file: rasterio.DatasetReader) -> None:
    if file.count == 0:
        inside = ", ".join(redact(name) for name in file.subdatasets) or "nothing"
        raise ImageOpenError(f"{redact(uri)} has no bands; it holds {inside}: open one of these")
    if len(set(file.dtypes)) > 1:
        raise ImageOpenError(f"{redact(uri)} mixes dtypes {file.dtypes}; convert it to one")
    if "complex" in file.dtypes[0] or "cint" in file.dtypes[0].lower():
        raise ImageOpenError(f"{redact(uri)} holds complex numbers ({file.dtypes[0]}); give amplitudes, abs(image)")


def _chunks(source: Source, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    _, height, width = source.shape
    if isinstance(chunks, tuple) and len(chunks) == 2 and all(isinstance(c, tuple) for c in chunks):
        return TileGrid((height, width), 1, 0, chunks).chunks
    if isinstance(chunks, Mapping):
        chunks = (chunks.get("y", height), chunks.get("x", width))
    if chunks is None or chunks == -1:
        return (height,), (width,)
    return plan_grid(source.shape, np.dtype(source.dtype).itemsize, source.block_edges, 1, 0, chunks).chunks


def _read_chunk(source: Source, regions: tuple[tuple[int, ...], ...], block_id: tuple[int, ...]) -> NDArray[Any]:
    _, row, column = block_id
    grid = TileGrid(source.shape[1:], 1, 0, regions)  # type: ignore[arg-type]  # two axes
    return source.read(grid.region_window(row, column))


def _version(uri: str) -> str:
    """Name the state of a local file; anything else counts as new each time it is opened."""
    path = Path(uri)
    if path.is_file():
        state = path.stat()
        return f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"
    return uuid4().hex


def _dataset(source: Source) -> rasterio.DatasetReader:
    """Open a file once a thread: GDAL's handles must not be shared between threads."""
    files: OrderedDict[Source, rasterio.DatasetReader] | None = getattr(_local, "files", None)
    if files is None:
        files = _local.files = OrderedDict()
    if source not in files:
        if len(files) >= _OPEN_FILES:
            files.popitem(last=False)[1].close()
        with unplaced():
            files[source] = rasterio.open(source.uri)
    files.move_to_end(source)
    return files[source]
