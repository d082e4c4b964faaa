"""What a run would do, without reading a pixel."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.redact import redact
from geotile.encoding.encoder import Encoder, TileCompression, TileFormat
from geotile.endpoints import endpoint as as_endpoint
from geotile.errors import ArgumentError
from geotile.geometry.georeference import Georeference, georeference_of, wkt_of
from geotile.grid.regions import plan_grid
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.open import OpenOptions, open_image, source_of
from geotile.planning.advice import megabytes, slow_reasons
from geotile.planning.request_size import must_fit
from geotile.planning.roi import roi_in_pixels, tiles_that_meet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ImageLike = Any  # str, path, STAC item, xarray.DataArray
_MEMORY_BLOCK = 256  # an array in memory has no blocks: cut it anywhere, but not at every pixel


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a run would do.

    Made by `plan`; its ``repr`` is the summary, ``plot()`` the picture.
    """

    name: str
    """The image's uri, without secrets."""
    image: xr.DataArray
    """Dims (band, y, x)."""
    grid: TileGrid
    encoder: Encoder
    roi: Any = None
    """Region of interest, a shapely geometry in image pixels; None for the whole image."""
    selected: NDArray[np.bool_] | None = None
    """(tiles down, tiles across), the tiles that meet it; None for all."""

    @property
    def regions(self) -> int:
        """Number of regions."""
        return self.grid.n_regions

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.grid.n_tiles

    @property
    def requests(self) -> int:
        """Requests to the endpoint at most, without retries: one a tile that meets the region of interest."""
        return self.grid.n_tiles if self.selected is None else int(self.selected.sum())

    @property
    def slow(self) -> tuple[str, ...]:
        """What will be slow or large, and why."""
        source = source_of(self.image)
        return () if source is None else tuple(slow_reasons(source, self.grid))

    @property
    def region_bytes(self) -> int:
        """Largest number of bytes that a region and its halo take in memory."""
        y = max(self.grid.read_window(row, 0).shape_yx[0] for row in range(self.grid.regions_yx[0]))
        x = max(self.grid.read_window(0, col).shape_yx[1] for col in range(self.grid.regions_yx[1]))
        return y * x * self._pixel_bytes

    @property
    def request_bytes(self) -> int:
        """Bytes of a tile's pixels; the body of a request, where its format does not compress."""
        y, x = self.grid.tile_window(0, 0).shape_yx
        return y * x * self._pixel_bytes

    @property
    def read_ratio(self) -> float:
        """Pixels of all regions' windows over pixels of the image.

        How much the halo costs in memory; a process decodes the blocks that windows share once.
        """
        y = sum(self.grid.read_window(row, 0).shape_yx[0] for row in range(self.grid.regions_yx[0]))
        x = sum(self.grid.read_window(0, col).shape_yx[1] for col in range(self.grid.regions_yx[1]))
        return y * x / (self.grid.shape_yx[0] * self.grid.shape_yx[1])

    @property
    def tasks(self) -> int:
        """Tasks of the Dask graph that a plain file gives, before Dask fuses them."""
        count, (y, x) = 3 * self.regions + 2, self.grid.regions_yx  # the job and its reading are keys of their own
        while y * x > 1:
            y, x = -(-y // 2), -(-x // 2)
            count += y * x
        return count

    @property
    def _pixel_bytes(self) -> int:
        return int(self.image.shape[0] * self.image.dtype.itemsize)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Return every tile: its geometry (world, or pixels), row, column, window and region.

        Returns
        -------
        geopandas.GeoDataFrame
            A row a tile, row-major. ``region`` numbers the regions row-major.
        """
        across, regions_across = self.grid.tiles_yx[1], self.grid.regions_yx[1]
        rows = []
        for number, window in self.grid.tiles():
            row, column = divmod(number, across)
            region = self.grid.region_of(row, column)
            rows.append((row, column, region[0] * regions_across + region[1], *window))
        table = np.array(rows, np.int64)
        y0, y1, x0, x1 = table[:, 3:].T
        placed = self.encoder.georeference.to_world(np.asarray(shapely.box(x0, y0, x1, y1)), None)
        names = ["row", "column", "region", "y0", "y1", "x0", "x1"]
        return gpd.GeoDataFrame(
            dict(zip(names, table.T, strict=True)), geometry=placed, crs=self.encoder.georeference.crs
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw regions and tiles over the image's footprint, in image pixels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default on a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from geotile.results.plotting import draw_grid

        return draw_grid(self.grid, ax)

    def _rows(self) -> list[tuple[str, str]]:
        bands, height, width = self.image.shape
        grid = self.grid
        return [
            ("image", self.name),
            ("size", f"{width:,} x {height:,} px, {bands} x {self.image.dtype}"),
            (
                "regions",
                f"{self.regions:,} ({grid.regions_yx[1]} x {grid.regions_yx[0]}), up to {megabytes(self.region_bytes)}",
            ),
            ("tiles", f"{self.tiles:,} ({grid.tiles_yx[1]} x {grid.tiles_yx[0]})"),
            *([] if self.roi is None else [("in the roi", f"{self.requests:,} of them")]),
            ("requests", f"{self.requests:,} of {megabytes(self.request_bytes)} ({self.encoder.format})"),
            ("windows", f"{self.read_ratio:.2f} x the image; what they share is decoded once a process"),
            ("graph", f"{self.tasks:,} tasks"),
            *(("slow", reason) for reason in self.slow),
        ]

    def __repr__(self) -> str:
        return "\n".join(["<geotile.Plan>", *(f"{name:>12}  {value}" for name, value in self._rows())])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table>{cells}</table>"


def plan(
    image: ImageLike,
    *,
    tile_size: int | Pair = 1024,
    overlap: int | Pair = 128,
    region_size: int | Pair | str = "auto",
    tile_format: TileFormat = "GTIFF",
    tile_compression: TileCompression = "NONE",
    roi: Any = None,
    endpoint: Any = None,
    **open_options: Unpack[OpenOptions],
) -> Plan:
    """Say what a run would do, without reading a pixel.

    Parameters
    ----------
    image : str, path or xarray.DataArray
        As `detect` takes it.
    tile_size, overlap : int or tuple of int
        In pixels, or (y, x).
    region_size : "auto", int or tuple of int
        In pixels, or (y, x), rounded to the file's blocks.
    tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
        What an endpoint behind a url would be sent.
    tile_compression : {"NONE", "LZW", "JPEG", "J2K"}
        Of GTIFF (LZW, JPEG) and NITF tiles (JPEG, J2K).
    roi : str, mapping, shapely geometry or GeoDataFrame, optional
        Region of interest, as `detect` takes it.
    endpoint : str, callable or Endpoint, optional
        As `detect` takes it: whether its requests hold such tiles.
    **open_options
        For a uri, those of `open_image`: ``storage_options``, ``bands``, ``resolution`` ...

    Returns
    -------
    Plan

    Raises
    ------
    ImageOpenError, ArgumentError
        As `detect` raises them.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> job = plan(write_example(), tile_size=128, overlap=32)
    >>> job.tiles, job.request_bytes
    (9, 49152)
    """
    name, array = as_image(image, **open_options)
    source = source_of(array)
    edges = source.block_edges if source is not None and not isinstance(image, xr.DataArray) else _block_edges(array)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    whole = source is not None and source.sequential
    grid = plan_grid(shape, array.dtype.itemsize, edges, tile_size, overlap, region_size, whole=whole)
    nodata = array.rio.nodata
    encoder = Encoder(tile_format, georeference_of(array), None if nodata is None else float(nodata), tile_compression)
    encoder.check(str(array.dtype), shape[0])
    if endpoint is not None:
        must_fit(as_endpoint(endpoint), encoder, (shape[0], *grid.tile_window(0, 0).shape_yx), array.dtype)
    area = None if roi is None else roi_in_pixels(roi, encoder.georeference, grid.shape_yx)
    selected = None if area is None else tiles_that_meet(grid, area)
    return Plan(name=name, image=array, grid=grid, encoder=encoder, roi=area, selected=selected)


def as_image(image: ImageLike, **open_options: Unpack[OpenOptions]) -> tuple[str, xr.DataArray]:
    """Return an image's name and the image, dims (band, y, x).

    Raises
    ------
    ArgumentError
        If it is neither a path nor an array of these dims, or of complex numbers.
    """
    if not isinstance(image, xr.DataArray):
        if not (isinstance(image, str | os.PathLike | Mapping) or hasattr(image, "assets")):
            raise ArgumentError(f"image is {type(image).__name__}; give a path, a uri or an xarray.DataArray")
        image = open_image(image, **open_options)
    elif open_options:
        raise ArgumentError(f"{sorted(open_options)} apply to a uri; give them to open_image")
    if set(image.dims) not in ({"y", "x"}, {"band", "y", "x"}):
        raise ArgumentError(f"image has dims {image.dims}; rename them to (band, y, x) or (y, x)")
    if 0 in image.shape:
        raise ArgumentError(f"image has shape {dict(image.sizes)}: there is nothing to look at")
    if image.dtype.kind not in "buif":
        raise ArgumentError(f"image has dtype {image.dtype}; give integers or floats, e.g. abs(image)")
    flat = image if "band" in image.dims else image.expand_dims("band")
    name = image.encoding.get("source") or image.name or "DataArray"
    return redact(str(name)), flat.transpose("band", "y", "x")


def _block_edges(image: xr.DataArray) -> tuple[Any, Any]:
    """Return where an array may be cut: between its chunks, or every few pixels in memory."""
    if image.chunks is not None:
        return np.cumsum(image.chunks[-2])[:-1], np.cumsum(image.chunks[-1])[:-1]
    return tuple(np.arange(_MEMORY_BLOCK, n, _MEMORY_BLOCK) for n in (image.sizes["y"], image.sizes["x"]))  # type: ignore[return-value]  # two axes


def footprint_crs(crs: Any, georeference: Georeference) -> str | None:
    """Return the WKT of the CRS that the answer comes in.

    Raises
    ------
    ArgumentError
        If a CRS is asked for and the image has none.
    """
    if crs is None:
        return georeference.crs
    if georeference.crs is None:
        raise ArgumentError(f"crs={crs!r} was asked for, but the image has no CRS; leave crs out")
    return wkt_of(crs)
